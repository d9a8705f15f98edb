//! Threads for work that blocks, with a queue for each tenant and turns between tenants.
//!
//! Tenants use it by `Tenant::submit` and `Tenant::run`. A free thread takes the next work of the tenant that has the
//! fewest threads. So a tenant that requests much work delays only itself. Tenants never have all threads: a new tenant
//! finds a free one. Work that takes long returns after a while and is queued again (`Work::run`).

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        LazyLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
    time::{Duration, Instant},
};

use crate::primitives::{Arc, Condvar, Mutex, MutexGuard, thread};

/// The maximum of threads.
const THREADS: usize = if cfg!(feature = "loom") { 2 } else { 64 };
/// The maximum of threads that do long work, for all tenants. More would take the processors from the engine's threads,
/// and long requests are not urgent.
static LONG_THREADS: LazyLock<usize> =
    LazyLock::new(|| available_parallelism().map_or(2, |cores| cores.get().max(2)));

/// A thread that has had no work for this long ends, except the last one.
const IDLE: Duration = Duration::from_secs(10);
/// The interval between two warnings that no thread can be started.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Work that blocks a thread.
pub(crate) trait Work: Send {
    /// Does the work, or a part of it that takes some milliseconds. In that case it returns the rest, which continues
    /// after other work had its turn.
    fn run(self: Box<Self>) -> Option<Box<dyn Work>>;

    /// Whether it may occupy a processor for long. Little of such work runs at the same time. What `run` returns counts
    /// as long work in any case, unless `stays_short`.
    fn is_long(&self) -> bool {
        false
    }

    /// Whether the rest that `run` returns does not count as long work. This holds for a series of short tasks, and for
    /// work that waits for another machine: it would leave no room for the long work of others.
    fn stays_short(&self) -> bool {
        false
    }
}

/// The threads. They end when this is dropped and their queues are empty.
pub(crate) struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when there is work, and when the executor closes.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queues: HashMap<u64, Queue>,
    /// Tenants whose next work may run, as (threads that the tenant has, turn, number of its queue).
    ready: BTreeSet<(usize, u64, u64)>,
    /// The same for long work.
    ready_long: BTreeSet<(usize, u64, u64)>,
    /// Threads that do work, and how many of them do long work.
    busy: usize,
    long: usize,
    /// Counts insertions into `ready` and `ready_long`.
    turn: u64,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    /// Of these, the number that have been woken and do not run yet.
    woken: usize,
    /// Threads that were started and do not run yet.
    started: usize,
    warned: Option<Instant>,
    closing: bool,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Box<dyn Work>>,
    running: usize,
    /// Its entry in `ready`.
    placed: Option<(usize, u64)>,
    long: VecDeque<Box<dyn Work>>,
    /// Threads that do long work of it. `running` includes them.
    running_long: usize,
    /// Its entry in `ready_long`.
    placed_long: Option<(usize, u64)>,
}

/// Work that a thread has taken.
struct Job {
    id: u64,
    work: Box<dyn Work>,
    long: bool,
}

/// The number of a tenant's queue.
#[derive(Debug)]
pub(super) struct QueueId(u64);

impl QueueId {
    pub(super) fn new() -> Self {
        // 0 is the payer for work that is charged to no tenant.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) const fn number(&self) -> u64 {
        self.0
    }
}

impl Default for Executor {
    fn default() -> Self {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }
}

impl Executor {
    /// Starts the first thread. So work can be done even if no more threads can be started later.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub(crate) fn start(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.threads > 0 {
            return Ok(());
        }
        state.thread_starts();
        drop(state);
        Shared::spawn(&self.shared).inspect_err(|_| self.shared.lock().thread_does_not_start())
    }

    /// Queues `work` for a tenant.
    pub(super) fn submit(&self, id: &QueueId, work: Box<dyn Work>) {
        let mut state = self.shared.lock();
        let queue = state.queues.entry(id.0).or_default();
        if work.is_long() {
            queue.long.push_back(work);
        } else {
            queue.work.push_back(work);
        }
        state.place(id.0);
        // A thread that is about to run wakes the next one: waking many at once costs more than their work. If no
        // thread is about to run and there are as many as allowed, one that becomes free takes the work.
        if state.has_work() && state.woken + state.started == 0 {
            Shared::rouse(&self.shared, state);
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
    /// Whether there is work that a free thread may do.
    fn has_work(&self) -> bool {
        self.has_short() || self.has_long()
    }

    /// Whether there is work that is not long. A tenant may have one more thread while it has fewer than are left for
    /// others.
    fn has_short(&self) -> bool {
        let left = THREADS - self.busy;
        self.ready.first().is_some_and(|&(running, ..)| running < left)
    }

    fn has_long(&self) -> bool {
        let left = *LONG_THREADS - self.long;
        self.busy < THREADS && self.ready_long.first().is_some_and(|&(running, ..)| running < left)
    }

    /// Updates the entries of a queue in `ready` and `ready_long`, and removes an empty queue.
    fn place(&mut self, id: u64) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if let Some((running, turn)) = queue.placed.take() {
            self.ready.remove(&(running, turn, id));
        }
        if let Some((running, turn)) = queue.placed_long.take() {
            self.ready_long.remove(&(running, turn, id));
        }
        if !queue.work.is_empty() {
            self.turn += 1;
            queue.placed = Some((queue.running, self.turn));
            self.ready.insert((queue.running, self.turn, id));
        }
        if !queue.long.is_empty() {
            self.turn += 1;
            queue.placed_long = Some((queue.running_long, self.turn));
            self.ready_long.insert((queue.running_long, self.turn, id));
        }
        if queue.work.is_empty() && queue.long.is_empty() && queue.running == 0 {
            self.queues.remove(&id);
        }
    }

    /// The next work, of the tenant that has the fewest threads. Long work goes first, since so few threads may do it.
    fn next(&mut self) -> Option<Job> {
        let long = self.has_long();
        if !long && !self.has_short() {
            return None;
        }
        let ready = if long { &self.ready_long } else { &self.ready };
        let &(_, _, id) = ready.first()?;
        let queue = self.queues.get_mut(&id)?;
        let work = if long { queue.long.pop_front() } else { queue.work.pop_front() }?;
        queue.running += 1;
        self.busy += 1;
        if long {
            queue.running_long += 1;
            self.long += 1;
        }
        self.place(id);
        Some(Job { id, work, long })
    }

    /// Called when a thread is free again. `rest` is the remaining part of its work.
    fn done(&mut self, id: u64, long: bool, rest: Option<Box<dyn Work>>) {
        self.busy -= 1;
        self.long -= usize::from(long);
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.running -= 1;
            queue.running_long -= usize::from(long);
            match rest {
                Some(rest) if rest.stays_short() => queue.work.push_back(rest),
                rest => queue.long.extend(rest),
            }
            self.place(id);
        }
    }

    fn thread_starts(&mut self) {
        self.threads += 1;
        self.started += 1;
    }

    fn thread_does_not_start(&mut self) {
        self.threads -= 1;
        self.started -= 1;
    }

    /// No thread could be started, so the work waits for an existing one.
    fn failed_to_start(&mut self, error: &io::Error) {
        self.thread_does_not_start();
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
        // Nothing under the lock panics, so the state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes or starts one more thread for the queued work, if there may be one.
    fn rouse(shared: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.idle > state.woken {
            state.woken += 1;
            drop(state);
            shared.changed.notify_one();
        } else if state.threads < THREADS {
            state.thread_starts();
            drop(state);
            if let Err(error) = Self::spawn(shared) {
                shared.lock().failed_to_start(&error);
            }
        }
    }

    /// Starts a thread, which is counted already.
    fn spawn(shared: &Arc<Self>) -> io::Result<()> {
        let shared = Arc::clone(shared);
        // Not joined, so that a disk that hangs does not delay the agent's exit.
        thread::Builder::new().name("disk".into()).spawn(move || Self::work(&shared)).map(drop)
    }

    fn work(shared: &Arc<Self>) {
        let mut state = shared.lock();
        state.started -= 1;
        loop {
            if let Some(Job { id, work, long }) = state.next() {
                // A thread that has become free may have made room for more work than it takes itself.
                if state.has_work() && state.woken + state.started == 0 {
                    Self::rouse(shared, state);
                } else {
                    drop(state);
                }
                let rest = catch_unwind(AssertUnwindSafe(|| work.run())).unwrap_or_else(|_| {
                    tracing::error!("our bug: work on a disk's thread panicked");
                    None
                });
                state = shared.lock();
                state.done(id, long, rest);
                continue;
            }
            if state.closing {
                break;
            }
            state.idle += 1;
            let waited = shared.changed.wait_timeout(state, IDLE);
            let timeout;
            (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            // Another thread may have been woken in fact. If so, it finds that this one has done the work.
            state.woken = state.woken.saturating_sub(1);
            if timeout.timed_out() && !state.has_work() && state.threads > 1 {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(all(test, feature = "loom"))]
mod interleavings;
#[cfg(all(test, not(feature = "loom")))]
mod tests;
