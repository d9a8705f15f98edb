//! How much of a block device's queue the requests of this process take.
//!
//! A read through the page cache starts readahead, and readahead waits for a place in the device's queue, also
//! with RWF_NOWAIT and in io_uring. When the queue is full, because the device is slow or has stopped, such a read
//! would block a thread that serves other connections. So `file` asks here before it reads on such a thread, and
//! counts what is under way. Requests that the queue has no room for wait on the executor's threads instead.
//!
//! The places in rings are shared between payers: a payer may take one while it has fewer than are free. So a
//! payer that keeps a device busy leaves room for the next one.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use nix::time::{ClockId, clock_gettime};

/// Requests that a device takes, where the kernel does not say how many: the usual number of the block layer.
const USUAL: u32 = 128;
/// The same of a filesystem that has no device here: FUSE stops its callers at 12 requests in the background.
const REMOTE: u32 = 12;
/// How long a look at what the device has under way holds, in ms: other processes and writeback use it too.
const LOOK_MS: u64 = 20;
/// Bytes that the kernel asks a device for in one request: the usual readahead.
const REQUEST: u64 = 128 << 10;
/// Devices below a device that is made of others, such as LVM on RAID on a disk.
const DEEPEST: usize = 4;

/// Who has a share of a device's queue: connections with the same number share it.
pub type Payer = u64;

/// One device's queue.
#[derive(Debug)]
struct Queue {
    /// Requests that it takes before it makes a caller wait.
    depth: u32,
    /// Places that are taken in rings.
    begun: AtomicU32,
    /// Requests under way in rings, and reads on threads.
    out: AtomicU32,
    /// Looks in the page cache since the last look at the device that have started a read.
    started: AtomicU32,
    /// What the kernel says of the device (Documentation/block/stat.rst).
    stat: Option<File>,
    /// Reads and writes that the device had completed at the last look.
    completed: AtomicU64,
    /// When that was read last, in ms.
    looked: AtomicU64,
    /// It had much to do then, and did not get on with it.
    was_slow: AtomicBool,
}

/// The share of one payer.
#[derive(Debug)]
pub(crate) struct Share {
    queue: Arc<Queue>,
    begun: AtomicU32,
}

/// A place in a ring for one request; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    share: Arc<Share>,
    /// Requests of the device.
    weight: u32,
}

/// A read on a thread; counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    share: &'a Share,
    /// Requests of the device.
    weight: u32,
}

#[derive(Debug, Default)]
struct Known {
    queues: HashMap<u64, Weak<Queue>>,
    shares: HashMap<(u64, Payer), Weak<Share>>,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Share {
    /// The share of `payer` in the queue of `device`. `local`: a filesystem on a block device of this machine, or
    /// such a device itself.
    pub(crate) fn of(device: u64, payer: Payer, local: bool) -> Arc<Self> {
        let found = known().queues.get(&device).and_then(Weak::upgrade);
        // Without the lock: files in /sys may take their time for a device that has stopped.
        let queue = found.unwrap_or_else(|| Arc::new(Queue::of(device, local)));
        let mut known = known();
        if let Some(share) = known.shares.get(&(device, payer)).and_then(Weak::upgrade) {
            return share;
        }
        let queue = known.queues.get(&device).and_then(Weak::upgrade).unwrap_or(queue);
        known.queues.retain(|_, queue| queue.strong_count() > 0);
        known.queues.insert(device, Arc::downgrade(&queue));
        known.shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Self { queue, begun: AtomicU32::new(0) });
        known.shares.insert((device, payer), Arc::downgrade(&share));
        share
    }

    /// The device may make a caller wait.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// Takes a place in a ring for `len` bytes, if this payer may have one more and the device takes it without a wait.
    pub(crate) fn place(self: &Arc<Self>, len: u64) -> Option<Place> {
        let own = self.begun.fetch_add(1, Ordering::Relaxed);
        let all = self.queue.begun.fetch_add(1, Ordering::Relaxed);
        let place = Place { share: Arc::clone(self), weight: weight(len) };
        let full = self.is_full();
        self.queue.out.fetch_add(place.weight, Ordering::Relaxed);
        let free = self.queue.enough().saturating_sub(all);
        (own < free && !full).then_some(place)
    }

    /// Counts a read of `len` bytes on a thread.
    pub(crate) fn reading(&self, len: u64) -> Reading<'_> {
        let weight = weight(len);
        self.queue.out.fetch_add(weight, Ordering::Relaxed);
        Reading { share: self, weight }
    }

    /// The page cache did not have `len` bytes: the look for them has started a read. Counted until the next look at
    /// the device, which sees it.
    pub(crate) fn started(&self, len: u64) {
        self.queue.started.fetch_add(weight(len), Ordering::Relaxed);
    }
}

/// Requests that a device gets for so many bytes, at most.
fn weight(len: u64) -> u32 {
    u32::try_from(len.div_ceil(REQUEST)).unwrap_or(u32::MAX).clamp(1, USUAL)
}

impl Drop for Place {
    fn drop(&mut self) {
        self.share.begun.fetch_sub(1, Ordering::Relaxed);
        self.share.queue.begun.fetch_sub(1, Ordering::Relaxed);
        self.share.queue.out.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.share.queue.out.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

impl Queue {
    fn of(device: u64, local: bool) -> Self {
        let (major, minor) = (libc::major(device), libc::minor(device));
        let own = format!("/sys/dev/block/{major}:{minor}");
        // A partition has the queue of its disk.
        let disk =
            if Path::new(&own).join("partition").exists() { format!("{own}/..") } else { own };
        let depth = depth_of(Path::new(&disk), DEEPEST);
        let stat = File::open(format!("{disk}/stat")).ok();
        Self::new(depth.unwrap_or(if local { USUAL } else { REMOTE }), stat)
    }

    fn new(depth: u32, stat: Option<File>) -> Self {
        let [begun, out, started] = [(); 3].map(|()| AtomicU32::new(0));
        let [completed, looked] = [(); 2].map(|()| AtomicU64::new(0));
        let was_slow = AtomicBool::new(false);
        Self { depth, begun, out, started, stat, completed, looked, was_slow }
    }

    /// From so many requests on a caller may have to wait: others come at the same time.
    const fn enough(&self) -> u32 {
        self.depth - self.depth / 4
    }

    fn is_full(&self) -> bool {
        let (now, looked) = (now_ms(), self.looked.load(Ordering::Relaxed));
        // One thread looks.
        if now.saturating_sub(looked) >= LOOK_MS
            && self.looked.swap(now, Ordering::Relaxed) == looked
        {
            self.started.store(0, Ordering::Relaxed);
            let slow =
                self.stat.as_ref().and_then(Stat::read).is_some_and(|stat| self.is_slow(&stat));
            self.was_slow.store(slow, Ordering::Relaxed);
        }
        let started = self.started.load(Ordering::Relaxed);
        let counted = self.out.load(Ordering::Relaxed).saturating_add(started);
        counted >= self.enough() || self.was_slow.load(Ordering::Relaxed)
    }

    /// The device has a quarter of its queue to do, and would take longer than four looks for it: it is slow, or has
    /// stopped. A busy device that gets on with its requests keeps nobody waiting for long.
    fn is_slow(&self, stat: &Stat) -> bool {
        let before = self.completed.swap(stat.completed, Ordering::Relaxed);
        let done = stat.completed.saturating_sub(before);
        stat.in_flight >= u64::from(self.depth / 4) && done < stat.in_flight / 4
    }
}

/// What the kernel says of a device.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Reads and writes that it has completed.
    completed: u64,
    /// Requests that it works on.
    in_flight: u64,
}

impl Stat {
    /// The fields 1, 5 and 9 of the file.
    fn read(file: &File) -> Option<Self> {
        let mut text = [0; 512];
        let len = file.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..len]).ok()?;
        let mut fields = text.split_whitespace().map(|field| field.parse::<u64>().ok());
        let (reads, writes) = (fields.next()??, fields.nth(3)??);
        Some(Self { completed: reads.saturating_add(writes), in_flight: fields.nth(3)?? })
    }
}

/// Requests that the device of that directory in /sys takes before a caller waits: what its scheduler takes, or its
/// driver where there is none. A device that is made of others takes as many as the least of them.
fn depth_of(disk: &Path, deepest: usize) -> Option<u32> {
    let number = |path: &Path| -> Option<u32> {
        fs::read_to_string(path).ok()?.trim().parse().ok().filter(|number| *number > 0)
    };
    let entries = |name: &str| fs::read_dir(disk.join(name)).into_iter().flatten().flatten();
    let scheduler = number(&disk.join("queue/nr_requests"));
    let tags = entries("mq").filter_map(|queue| number(&queue.path().join("nr_tags")));
    let driver = tags.reduce(u32::saturating_add);
    let below =
        entries("slaves").filter_map(|slave| depth_of(&slave.path(), deepest.checked_sub(1)?));
    [scheduler.or(driver), below.min()].into_iter().flatten().min()
}

/// A clock that is cheap to read and has steps of a few ms.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |now| {
        let number = |part: i64| u64::try_from(part).unwrap_or(0);
        number(now.tv_sec()) * 1000 + number(now.tv_nsec()) / 1_000_000
    });
    // 0 says that nobody has looked yet.
    now.max(LOOK_MS)
}

#[cfg(test)]
mod tests {
    use std::{fs, thread, time::Duration};

    use super::*;

    fn share(queue: &Arc<Queue>) -> Arc<Share> {
        Arc::new(Share { queue: Arc::clone(queue), begun: AtomicU32::new(0) })
    }

    fn places(share: &Arc<Share>) -> Vec<Place> {
        std::iter::from_fn(|| share.place(4096)).collect()
    }

    #[test]
    fn a_payer_takes_half_of_what_is_free_and_gives_it_back() {
        let queue = Arc::new(Queue::new(64, None));
        let [greedy, second, third] = [(); 3].map(|()| share(&queue));
        let taken = places(&greedy);
        assert_eq!(taken.len(), 24, "of 48");
        assert_eq!(places(&second).len(), 12, "dropped at once");
        let second = places(&second);
        assert_eq!(places(&third).len(), 6, "also the third has a place");
        drop((taken, second));
        assert_eq!(
            (queue.begun.load(Ordering::Relaxed), queue.out.load(Ordering::Relaxed)),
            (0, 0)
        );
        assert_eq!(places(&third).len(), 24);
    }

    #[test]
    fn reads_under_way_fill_the_queue() {
        let queue = Arc::new(Queue::new(16, None));
        let share = share(&queue);
        let reading: Vec<_> = (0..12).map(|_| share.reading(4096)).collect();
        assert!(share.is_full() && share.place(4096).is_none());
        drop(reading);
        assert!(!share.is_full() && share.place(4096).is_some());
        assert_eq!(
            (queue.begun.load(Ordering::Relaxed), queue.out.load(Ordering::Relaxed)),
            (0, 0)
        );
    }

    #[test]
    fn a_device_that_does_not_get_on_with_its_requests_is_slow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stat");
        let say = |reads: u64, writes: u64, in_flight: u64| {
            let text = format!(" {reads} 0 8 5 {writes} 0 0 0 {in_flight} 7 7 0 0 0 0 0 0\n");
            fs::write(&path, text).unwrap();
            Stat::read(&File::open(&path).unwrap()).unwrap()
        };
        let queue = Queue::new(64, None);
        assert!(!queue.is_slow(&say(1000, 500, 64)), "at first nothing is known");
        assert!(queue.is_slow(&say(1000, 500, 64)), "it has stopped");
        assert!(queue.is_slow(&say(1004, 505, 60)), "it is slow");
        assert!(!queue.is_slow(&say(1020, 505, 60)), "it is busy");
        assert!(!queue.is_slow(&say(1020, 505, 15)), "it has little to do");
        let file = File::open(&path).unwrap();
        let queue = Queue::new(16, Some(file));
        assert!(!queue.is_full());
        say(1020, 505, 16);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !queue.is_full() {
            assert!(std::time::Instant::now() < deadline, "it is looked at again");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn connections_of_one_payer_share_its_places() {
        let device = libc::makedev(4095, 77);
        let [one, same, other] = [1, 1, 2].map(|payer| Share::of(device, payer, true));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        assert!(Arc::ptr_eq(&one.queue, &other.queue));
        assert_eq!(one.queue.depth, USUAL);
        assert_eq!(Share::of(device + 1, 1, false).queue.depth, REMOTE);
    }

    #[test]
    fn a_look_that_started_a_read_counts_until_the_device_is_looked_at() {
        let queue = Arc::new(Queue::new(16, None));
        let share = share(&queue);
        assert!(!share.is_full());
        share.started(12 * REQUEST);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while share.is_full() {
            assert!(std::time::Instant::now() < deadline, "it counts for ever");
            thread::sleep(Duration::from_millis(5));
        }
        let long = share.reading(100 * REQUEST);
        assert!(share.is_full());
        drop(long);
        assert!(!share.is_full());
    }

    #[test]
    fn a_device_takes_what_the_least_of_its_parts_takes() {
        let sys = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("vda/queue/nr_requests", "256\n");
        put("vda/mq/0/nr_tags", "64\n");
        put("vda/mq/1/nr_tags", "64\n");
        put("sdb/queue/nr_requests", "64\n");
        put("sdb/mq/0/nr_tags", "32\n");
        fs::create_dir_all(sys.path().join("dm-0/slaves")).unwrap();
        for part in ["vda", "sdb"] {
            std::os::unix::fs::symlink(
                sys.path().join(part),
                sys.path().join("dm-0/slaves").join(part),
            )
            .unwrap();
        }
        let depth = |name: &str| depth_of(&sys.path().join(name), DEEPEST);
        assert_eq!(
            [depth("vda"), depth("sdb"), depth("dm-0"), depth("none")],
            [Some(256), Some(64), Some(64), None]
        );
    }
}
