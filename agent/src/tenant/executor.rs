//! Threads for work that blocks, with a queue for each tenant and turns between tenants.
//!
//! A tenant reaches it by `Tenant::submit` and `Tenant::run`. A free thread takes the next work of the
//! tenant that has the fewest threads, so a tenant that asks for much delays itself and nobody else. Work
//! that takes long comes back after a while and queues again (`Work::run`).

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Most threads.
const THREADS: usize = 64;
/// Most threads that work for one tenant: another finds one at once.
const THREADS_PER_TENANT: usize = 48;
/// A thread that has had nothing to do for so long ends; the last one stays.
const IDLE: Duration = Duration::from_secs(10);
/// Between two warnings that no thread can be started.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Something that blocks a thread.
pub trait Work: Send {
    /// Does it, or a part of it that takes some milliseconds: then it is given back, and goes on after
    /// others had their turn.
    fn run(self: Box<Self>) -> Option<Box<dyn Work>>;
}

/// The threads. They end when this is dropped and their queues are empty.
pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// There is work, or there will be none any more.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queues: HashMap<u64, Queue>,
    /// Tenants whose next work may run: threads that it has, when it was put here, its number.
    ready: BTreeSet<(usize, u64, u64)>,
    /// Counts what was put there.
    turn: u64,
    threads: usize,
    idle: usize,
    warned: Option<Instant>,
    closing: bool,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Box<dyn Work>>,
    running: usize,
    /// Where it stands in `ready`.
    placed: Option<(usize, u64)>,
}

/// The number of a tenant's queue.
#[derive(Debug)]
pub(super) struct QueueId(u64);

impl QueueId {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for Executor {
    fn default() -> Self {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }
}

impl Executor {
    /// Starts the first thread, so that work can be done however few threads there may be later.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn start(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.threads == 0 {
            state.threads = 1;
            drop(state);
            if let Err(error) = self.shared.spawn() {
                self.shared.lock().threads = 0;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Queues `work` for a tenant.
    pub(super) fn submit(&self, id: &QueueId, work: Box<dyn Work>) {
        let mut state = self.shared.lock();
        state.queues.entry(id.0).or_default().work.push_back(work);
        state.place(id.0);
        if state.ready.is_empty() {
            // The tenant has all the threads that it may have: one of them takes it.
            return;
        }
        if state.idle > 0 {
            drop(state);
            self.shared.changed.notify_one();
        } else if state.threads < THREADS {
            state.threads += 1;
            drop(state);
            if let Err(error) = self.shared.spawn() {
                self.shared.lock().failed_to_start(&error);
            }
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Executor").field("threads", &state.threads).finish_non_exhaustive()
    }
}

impl State {
    /// Puts a queue where it belongs in `ready`, or takes it out.
    fn place(&mut self, id: u64) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if let Some((running, turn)) = queue.placed.take() {
            self.ready.remove(&(running, turn, id));
        }
        if !queue.work.is_empty() && queue.running < THREADS_PER_TENANT {
            self.turn += 1;
            queue.placed = Some((queue.running, self.turn));
            self.ready.insert((queue.running, self.turn, id));
        } else if queue.work.is_empty() && queue.running == 0 {
            self.queues.remove(&id);
        }
    }

    /// The next work, of the tenant that has the fewest threads.
    fn next(&mut self) -> Option<(u64, Box<dyn Work>)> {
        let &(_, _, id) = self.ready.first()?;
        let queue = self.queues.get_mut(&id)?;
        let work = queue.work.pop_front()?;
        queue.running += 1;
        self.place(id);
        Some((id, work))
    }

    /// A thread is free again; `rest` is what its work still has to do.
    fn done(&mut self, id: u64, rest: Option<Box<dyn Work>>) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.running -= 1;
            queue.work.extend(rest);
            self.place(id);
        }
    }

    /// The work waits for a thread that there is.
    fn failed_to_start(&mut self, error: &io::Error) {
        self.threads -= 1;
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                threads = self.threads,
                "cannot start another thread for disks: {error}; requests wait for those there are \
                 (see TasksMax= of the unit, or ulimit -u)"
            );
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread, which is counted already.
    fn spawn(self: &Arc<Self>) -> io::Result<()> {
        let shared = Arc::clone(self);
        // Not waited for: a disk that hangs does not hold the agent.
        thread::Builder::new().name("disk".into()).spawn(move || shared.work()).map(drop)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some((id, work)) = state.next() {
                drop(state);
                let rest = catch_unwind(AssertUnwindSafe(|| work.run())).unwrap_or_else(|_| {
                    tracing::error!("our bug: work on a disk's thread panicked");
                    None
                });
                state = self.lock();
                state.done(id, rest);
                continue;
            }
            if state.closing {
                break;
            }
            state.idle += 1;
            let waited = self.changed.wait_timeout(state, IDLE);
            let timeout;
            (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            if timeout.timed_out() && state.ready.is_empty() && state.threads > 1 {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Says when it begins, and ends when it is told to.
    struct Waits(Sender<()>, Receiver<()>);

    impl Work for Waits {
        fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
            self.0.send(()).ok();
            self.1.recv().ok();
            None
        }
    }

    /// Comes back so often.
    struct Again(u32, Sender<u32>);

    impl Work for Again {
        fn run(mut self: Box<Self>) -> Option<Box<dyn Work>> {
            self.1.send(self.0).ok();
            self.0 = self.0.checked_sub(1)?;
            Some(self)
        }
    }

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_tenant_that_takes_all_it_can_leaves_threads_for_another() {
        let executor = Executor::default();
        let (greedy, other) = (QueueId::new(), QueueId::new());
        let (begun, begins) = channel();
        let mut held = Vec::new();
        for _ in 0..200 {
            let (go, wait) = channel();
            held.push(go);
            executor.submit(&greedy, Box::new(Waits(begun.clone(), wait)));
        }
        for _ in 0..THREADS_PER_TENANT {
            begins.recv_timeout(SOON).unwrap();
        }
        let (done, finished) = channel();
        executor.submit(&other, Box::new(Again(3, done)));
        assert_eq!(
            (0..4).map(|_| finished.recv_timeout(SOON).unwrap()).collect::<Vec<_>>(),
            [3, 2, 1, 0]
        );
        assert!(begins.try_recv().is_err(), "the greedy one has no more than its share");
        drop(held);
        for _ in THREADS_PER_TENANT..200 {
            begins.recv_timeout(SOON).unwrap();
        }
    }

    #[test]
    fn work_for_ever_lets_the_other_work_of_its_tenant_through() {
        struct Forever;
        impl Work for Forever {
            fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
                thread::sleep(Duration::from_micros(100));
                Some(self)
            }
        }
        let executor = Executor::default();
        let id = QueueId::new();
        for _ in 0..2 * THREADS {
            executor.submit(&id, Box::new(Forever));
        }
        let (done, finished) = channel();
        executor.submit(&id, Box::new(Again(5, done)));
        for _ in 0..6 {
            finished.recv_timeout(SOON).unwrap();
        }
        // For ever is longer than a test: its threads find nothing to do any more.
        executor.shared.lock().queues.clear();
        executor.shared.lock().ready.clear();
    }

    #[test]
    fn a_panic_ends_the_work_and_not_the_thread() {
        struct Panics;
        impl Work for Panics {
            fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
                panic!("for the test")
            }
        }
        let executor = Executor::default();
        let id = QueueId::new();
        for _ in 0..2 * THREADS {
            executor.submit(&id, Box::new(Panics));
        }
        let (done, finished) = channel();
        executor.submit(&id, Box::new(Again(0, done)));
        assert_eq!(finished.recv_timeout(SOON).unwrap(), 0);
    }

    #[test]
    fn idle_threads_do_not_keep_a_dropped_executor() {
        let executor = Executor::default();
        executor.start().unwrap();
        let shared = Arc::downgrade(&executor.shared);
        drop(executor);
        let start = Instant::now();
        while shared.strong_count() > 0 {
            assert!(start.elapsed() < SOON, "the thread is still there");
            thread::yield_now();
        }
    }
}
