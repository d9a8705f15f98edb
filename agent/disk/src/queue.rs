//! How much of a block device's queue this process's requests take.
//!
//! A read through the page cache starts readahead, and readahead waits for a place in the device's queue, even with
//! RWF_NOWAIT and in io_uring. When the queue is full, because the device is slow or has stopped, such a read would
//! block a thread that serves other connections. So `file` asks here before it reads on such a thread, and counts the
//! requests in flight. Requests that the queue has no room for wait on the executor's threads instead.
//!
//! The places in rings are shared between payers: a payer may take one while it has fewer than are free. So a payer
//! that keeps a device busy leaves room for others.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use nix::time::{ClockId, clock_gettime};

/// Depth of a device's queue in requests, if the kernel does not report one: the default of the block layer.
const USUAL: u32 = 128;
/// The same for a filesystem without a device on this machine. FUSE makes callers wait at 12 background requests.
const REMOTE: u32 = 12;
/// How long a reading of the device's requests in flight is used, in ms. Other processes and writeback use the device
/// too.
const LOOK_MS: u64 = 20;

/// The owner of a share of a device's queue. Connections with the same number share it.
pub type Payer = u64;

/// One device's queue.
#[derive(Debug)]
struct Queue {
    /// Number of requests that it takes before it makes a caller wait.
    depth: u32,
    /// Number of places that are taken in rings.
    begun: AtomicU32,
    /// Number of requests in flight in rings, and of reads on threads that the page cache lacks.
    out: AtomicU32,
    /// The kernel's counts of requests in flight: `READS WRITES`.
    inflight: Option<File>,
    /// When `inflight` was last read, in ms.
    looked: AtomicU64,
    /// Whether it was nearly full then.
    was_full: AtomicBool,
}

/// The share of one payer in a device's queue.
#[derive(Debug)]
pub(crate) struct Share {
    queue: Arc<Queue>,
    begun: AtomicU32,
}

/// A place in a ring for one request. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Place(Arc<Share>);

/// A read on a thread. It is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Reading<'a>(&'a Share);

#[derive(Debug, Default)]
struct Known {
    queues: HashMap<u64, Weak<Queue>>,
    shares: HashMap<(u64, Payer), Weak<Share>>,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

impl Share {
    /// The share of `payer` in the queue of `device`. `local` says that this is a block device of this machine, or a
    /// filesystem on one.
    pub(crate) fn of(device: u64, payer: Payer, local: bool) -> Arc<Self> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = known.shares.get(&(device, payer)).and_then(Weak::upgrade) {
            return share;
        }
        let queue = known.queues.get(&device).and_then(Weak::upgrade).unwrap_or_else(|| {
            known.queues.retain(|_, queue| queue.strong_count() > 0);
            let queue = Arc::new(Queue::of(device, if local { USUAL } else { REMOTE }));
            known.queues.insert(device, Arc::downgrade(&queue));
            queue
        });
        known.shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Self { queue, begun: AtomicU32::new(0) });
        known.shares.insert((device, payer), Arc::downgrade(&share));
        share
    }

    /// Whether the device may make a caller wait.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// Takes a place in a ring, if this payer may have one more and the device takes the request without a wait.
    pub(crate) fn place(self: &Arc<Self>) -> Option<Place> {
        let own = self.begun.fetch_add(1, Ordering::Relaxed);
        let all = self.queue.begun.fetch_add(1, Ordering::Relaxed);
        self.count(1);
        let place = Place(Arc::clone(self));
        // Half of the queue is for rings. The rest is for the executor's threads and for writeback.
        let free = (self.queue.depth / 2).saturating_sub(all);
        (own < free && !self.is_full()).then_some(place)
    }

    /// Counts a read that the page cache lacks.
    pub(crate) fn reading(&self) -> Reading<'_> {
        self.count(1);
        Reading(self)
    }

    /// Counts `reads` of them, until `uncount`.
    pub(crate) fn count(&self, reads: u32) {
        self.queue.out.fetch_add(reads, Ordering::Relaxed);
    }

    /// Ends the count of `reads` of them.
    pub(crate) fn uncount(&self, reads: u32) {
        self.queue.out.fetch_sub(reads, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.begun.fetch_sub(1, Ordering::Relaxed);
        self.0.queue.begun.fetch_sub(1, Ordering::Relaxed);
        self.0.uncount(1);
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.uncount(1);
    }
}

impl Queue {
    fn of(device: u64, unknown: u32) -> Self {
        let (major, minor) = (libc::major(device), libc::minor(device));
        // A partition uses the queue of its disk.
        let found = ["", "../"].iter().find_map(|up| {
            let disk = format!("/sys/dev/block/{major}:{minor}/{up}");
            let depth = std::fs::read_to_string(format!("{disk}queue/nr_requests")).ok()?;
            let depth = depth.trim().parse().ok().filter(|depth| *depth > 0)?;
            Some((depth, File::open(format!("{disk}inflight")).ok()))
        });
        let (depth, inflight) = found.unwrap_or((unknown, None));
        Self::new(depth, inflight)
    }

    fn new(depth: u32, inflight: Option<File>) -> Self {
        let [begun, out] = [(); 2].map(|()| AtomicU32::new(0));
        let (looked, was_full) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { depth, begun, out, inflight, looked, was_full }
    }

    /// The number of requests from which on a caller may have to wait. Some requests are split into several, and others
    /// arrive at the same time.
    const fn enough(&self) -> u32 {
        self.depth - self.depth / 4
    }

    fn is_full(&self) -> bool {
        if self.out.load(Ordering::Relaxed) >= self.enough() {
            return true;
        }
        let Some(inflight) = &self.inflight else { return false };
        let (now, looked) = (now_ms(), self.looked.load(Ordering::Relaxed));
        if now.saturating_sub(looked) >= LOOK_MS
            && self
                .looked
                .compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            let full = under_way(inflight).is_some_and(|count| count >= self.enough());
            self.was_full.store(full, Ordering::Relaxed);
        }
        self.was_full.load(Ordering::Relaxed)
    }
}

/// The sum of the two numbers in the kernel's file, of reads and of writes.
fn under_way(inflight: &File) -> Option<u32> {
    let mut text = [0; 64];
    let len = inflight.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..len]).ok()?;
    text.split_whitespace()
        .try_fold(0_u32, |sum, word| Some(sum.saturating_add(word.parse().ok()?)))
}

/// The time in ms, of a clock that is cheap to read and has steps of a few ms.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |now| {
        u64::try_from(now.tv_sec()).unwrap_or(0) * 1000
            + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000
    });
    // 0 means that nothing was read yet.
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
        std::iter::from_fn(|| share.place()).collect()
    }

    #[test]
    fn a_payer_takes_half_of_what_is_free_and_gives_it_back() {
        let queue = Arc::new(Queue::new(64, None));
        let [greedy, second, third] = [(); 3].map(|()| share(&queue));
        let taken = places(&greedy);
        assert_eq!(taken.len(), 16, "of 32");
        assert_eq!(places(&second).len(), 8, "dropped at once");
        let second = places(&second);
        assert_eq!(places(&third).len(), 4, "also the third has a place");
        drop((taken, second));
        assert_eq!(
            (queue.begun.load(Ordering::Relaxed), queue.out.load(Ordering::Relaxed)),
            (0, 0)
        );
        assert_eq!(places(&third).len(), 16);
    }

    #[test]
    fn reads_under_way_fill_the_queue() {
        let queue = Arc::new(Queue::new(16, None));
        let share = share(&queue);
        let reading: Vec<_> = (0..12).map(|_| share.reading()).collect();
        assert!(share.is_full() && share.place().is_none());
        drop(reading);
        assert!(!share.is_full() && share.place().is_some());
        assert_eq!(
            (queue.begun.load(Ordering::Relaxed), queue.out.load(Ordering::Relaxed)),
            (0, 0)
        );
    }

    #[test]
    fn requests_that_the_kernel_counts_matter_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("inflight");
        fs::write(&path, "       3        9\n").unwrap();
        let queue = Queue::new(16, Some(File::open(&path).unwrap()));
        assert!(queue.is_full());
        fs::write(&path, "       3        0\n").unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while queue.is_full() {
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
}
