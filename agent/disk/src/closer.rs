//! Threads that close disks, since closing may take long.
//!
//! A disk is dropped where its connection ends, on a thread that serves other connections. Closing a file with
//! unwritten data takes as long as the medium needs, and on a network filesystem possibly for ever. So a disk is never
//! closed on the caller's thread, and a medium that hangs occupies some of the threads and not all of them.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// Most threads. The last one stays; the others end when there is nothing left to close.
const THREADS: usize = 64;
/// Most threads for disks on one medium.
const PER_MEDIUM: usize = 16;
/// Bytes of a thread's stack, which needs little.
const STACK: usize = 128 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// A medium: disks on the same medium can delay each other. The number is that of a device, or of a kind of place.
pub(crate) type Medium = u64;
/// The medium of disks that are no files. No device has this number: its upper bits are no major number.
const ELSEWHERE: Medium = u64::MAX;

#[derive(Default)]
struct Closer {
    /// The media with jobs.
    media: BTreeMap<Medium, Queue>,
    /// The medium that had the last turn.
    last: Medium,
    threads: usize,
    /// Whether the last thread is idle.
    idle: bool,
    warned: bool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    threads: usize,
}

impl Closer {
    /// The next job. The media take turns.
    fn next(&mut self) -> Option<(Medium, Job)> {
        let after = (Bound::Excluded(self.last), Bound::Unbounded);
        let up_to = (Bound::Unbounded, Bound::Included(self.last));
        let mut in_turn = self.media.range(after).chain(self.media.range(up_to));
        let (&medium, _) =
            in_turn.find(|(_, queue)| !queue.waiting.is_empty() && queue.threads < PER_MEDIUM)?;
        self.last = medium;
        let queue = self.media.get_mut(&medium)?;
        let job = queue.waiting.pop_front()?;
        queue.threads += 1;
        Some((medium, job))
    }

    fn done(&mut self, medium: Medium) {
        if let Some(queue) = self.media.get_mut(&medium) {
            queue.threads -= 1;
            if queue.threads == 0 && queue.waiting.is_empty() {
                self.media.remove(&medium);
            }
        }
    }
}

/// Waits until everything is closed.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn wait() {
    while !lock().media.is_empty() {
        thread::sleep(std::time::Duration::from_millis(1));
    }
}

static CLOSER: Mutex<Closer> =
    Mutex::new(Closer { media: BTreeMap::new(), last: 0, threads: 0, idle: false, warned: false });
/// Signalled when the idle thread has a job.
static CHANGED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Closer> {
    CLOSER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the first thread, so that disks can be closed even if no thread can be started later.
///
/// # Errors
/// The thread cannot be started.
pub fn start() -> io::Result<()> {
    let mut closer = lock();
    if closer.threads == 0 {
        start_thread(&mut closer)?;
    }
    Ok(())
}

/// Drops `what` on another thread, soon.
pub fn close(what: impl Send + 'static) {
    close_on(ELSEWHERE, what);
}

/// Drops `what`, which is on that medium, on another thread.
pub(crate) fn close_on(medium: Medium, what: impl Send + 'static) {
    let mut closer = lock();
    let queue = closer.media.entry(medium).or_default();
    queue.waiting.push_back(Box::new(move || drop(what)));
    if queue.threads >= PER_MEDIUM {
        return;
    }
    if closer.idle {
        closer.idle = false;
        CHANGED.notify_one();
    } else if closer.threads < THREADS {
        // If no thread can be started, the existing threads do the job later, or the first one that can be started.
        if let Err(error) = start_thread(&mut closer)
            && !closer.warned
        {
            closer.warned = true;
            let threads = closer.threads;
            drop(closer);
            tracing::warn!("no more than {threads} threads can be started to close disks: {error}");
        }
    }
}

fn start_thread(closer: &mut Closer) -> io::Result<()> {
    thread::Builder::new().name("close".into()).stack_size(STACK).spawn(work)?;
    // The new thread waits for the lock meanwhile.
    closer.threads += 1;
    closer.warned = false;
    Ok(())
}

fn work() {
    let mut closer = lock();
    loop {
        if let Some((medium, job)) = closer.next() {
            drop(closer);
            // A panic was logged, and the thread goes on.
            catch_unwind(AssertUnwindSafe(job)).ok();
            closer = lock();
            closer.done(medium);
        } else if closer.threads > 1 {
            closer.threads -= 1;
            return;
        } else {
            closer.idle = true;
            let woken = CHANGED.wait_while(closer, |closer| closer.idle);
            closer = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    /// Dropping it blocks until the other end of the channel is dropped.
    struct Slow(mpsc::Receiver<()>, mpsc::Sender<Medium>, Medium);

    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.recv().ok();
            self.1.send(self.2).ok();
        }
    }

    struct Panics;

    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("for the test");
        }
    }

    #[test]
    fn a_medium_that_hangs_does_not_delay_others_and_everything_is_closed_in_the_end() {
        const HANGS: Medium = 7;
        let (tell, closed) = mpsc::channel();
        let slow = |medium| {
            let (release, wait) = mpsc::channel();
            close_on(medium, Slow(wait, tell.clone(), medium));
            release
        };
        let held: Vec<_> = (0..2 * THREADS).map(|_| slow(HANGS)).collect();
        while lock().media[&HANGS].threads < PER_MEDIUM {
            thread::sleep(Duration::from_millis(1));
        }
        for medium in [8, 9, ELSEWHERE] {
            drop(slow(medium));
            let told = closed.recv_timeout(Duration::from_secs(30));
            assert_eq!(told, Ok(medium), "it waits for another medium");
        }
        assert_eq!(lock().media[&HANGS].threads, PER_MEDIUM);
        drop(held);
        for _ in 0..2 * THREADS {
            assert_eq!(closed.recv_timeout(Duration::from_secs(30)), Ok(HANGS));
        }
        // A panic during a close ends no thread and frees its place.
        (0..2 * PER_MEDIUM).for_each(|_| close_on(HANGS, Panics));
        drop(slow(HANGS));
        assert_eq!(closed.recv_timeout(Duration::from_secs(30)), Ok(HANGS));
    }
}
