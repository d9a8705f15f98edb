//! Turns of the tenants on one engine thread.
//!
//! tokio runs ready tasks in the order in which they became ready, so a tenant with a thousand busy connections would
//! have a thousand turns while another has one. Here each connection charges its working time to its tenant. Once a
//! tenant has used its slice, its connections wait until every other waiting tenant has had a turn. If a tenant with a
//! few connections is alone on the thread, its connections only yield, and nothing is counted.
//!
//! `transmit` counts its turns itself. Everything before it, including the TLS handshake, runs `within` its tenant's
//! turns.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::tenant::Tenant;

/// How long a tenant's connections work on a thread before other tenants have their turn.
pub(super) const SLICE: Duration = Duration::from_micros(500);
/// The maximum of connections of a tenant that need no turns while no other tenant is connected to the thread. More of
/// them would delay a new tenant by milliseconds.
const ALONE: usize = 8;
/// The length of the window in which use is counted. A tenant that works less than a quarter of the time never waits.
const WINDOW: Duration = Duration::from_millis(2);

thread_local! {
    /// The shares of this thread's tenants, by the tenant's address.
    static SHARES: RefCell<HashMap<usize, Weak<Share>>> = RefCell::default();
    /// Tenants with waiting connections, each once.
    static WAITING: RefCell<VecDeque<Arc<Share>>> = RefCell::default();
    static DISPATCHING: Cell<bool> = const { Cell::new(false) };
    /// The number of tenants that are connected to this thread.
    static TENANTS: Cell<usize> = const { Cell::new(0) };
}

/// The origin of `Share::window`.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A tenant on one thread. That thread creates and drops it.
#[derive(Debug)]
struct Share {
    /// Nanoseconds that its connections have worked in the current window.
    used: AtomicU64,
    /// The start of the window, in nanoseconds since `START`.
    window: AtomicU64,
    /// Its waiting connections. The first in the queue continues first.
    waiting: Mutex<VecDeque<Arc<Notify>>>,
}

impl Drop for Share {
    fn drop(&mut self) {
        // The thread-local is gone if the thread is ending; then no count is needed.
        TENANTS.try_with(|tenants| tenants.set(tenants.get() - 1)).ok();
    }
}

impl Share {
    fn new() -> Self {
        TENANTS.set(TENANTS.get() + 1);
        Self { used: AtomicU64::new(0), window: AtomicU64::new(0), waiting: Mutex::default() }
    }

    /// Counts more work. Returns true if the tenant has used its slice.
    fn add(&self, worked: Duration, now: Instant) -> bool {
        let now = nanoseconds(now.saturating_duration_since(*START));
        let worked = nanoseconds(worked);
        // Only one thread uses this, so nothing happens between the load and the stores.
        if now.saturating_sub(self.window.load(Ordering::Relaxed)) >= nanoseconds(WINDOW) {
            self.window.store(now, Ordering::Relaxed);
            self.used.store(worked, Ordering::Relaxed);
            return worked >= nanoseconds(SLICE);
        }
        let before = self.used.fetch_add(worked, Ordering::Relaxed);
        before.saturating_add(worked) >= nanoseconds(SLICE)
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's part in the turns of its thread.
#[derive(Debug)]
pub(super) struct Turns {
    share: Arc<Share>,
    /// When the connection began to work, or was last counted; `None` while nothing is counted.
    since: Option<Instant>,
}

impl Turns {
    /// For a connection that runs on this thread and stays on it.
    pub(super) fn new(tenant: &Arc<Tenant>) -> Self {
        let id = Arc::as_ptr(tenant).addr();
        let share = SHARES.with_borrow_mut(|shares| {
            if let Some(share) = shares.get(&id).and_then(Weak::upgrade) {
                return share;
            }
            shares.retain(|_, share| share.strong_count() > 0);
            let share = Arc::new(Share::new());
            shares.insert(id, Arc::downgrade(&share));
            share
        });
        Self { share, since: None }
    }

    /// No other tenant is connected to this thread, and this one has few connections.
    fn has_the_thread(&self) -> bool {
        TENANTS.get() == 1 && Arc::strong_count(&self.share) <= ALONE
    }

    /// The connection begins to work, after it has waited. Returns true if its tenant's other connections have used up
    /// the slice; then call `pass` before doing anything.
    #[must_use]
    pub(super) fn begin(&mut self) -> bool {
        self.since = None;
        self.count()
    }

    /// Counts the time since `begin` or the last count. Returns true if the tenant has used its slice and `pass` is
    /// due.
    pub(super) fn count(&mut self) -> bool {
        if self.has_the_thread() {
            self.since = None;
            return false;
        }
        let now = Instant::now();
        let worked = self.since.map_or(Duration::ZERO, |since| now - since);
        self.since = Some(now);
        self.share.add(worked, now)
    }

    /// Waits for the tenant's next turn.
    pub(super) async fn pass(&mut self) {
        if self.has_the_thread() {
            self.since = None;
            return tokio::task::yield_now().await;
        }
        let ticket = Arc::new(Notify::new());
        let first = {
            let mut waiting = self.share.waiting();
            waiting.push_back(Arc::clone(&ticket));
            waiting.len() == 1
        };
        if first {
            WAITING.with_borrow_mut(|waiting| waiting.push_back(Arc::clone(&self.share)));
        }
        if !DISPATCHING.replace(true) {
            tokio::spawn(dispatch());
        }
        ticket.notified().await;
        self.since = Some(Instant::now());
    }
}

/// Runs `future` in turns of the tenant: it is not polled while other waiting tenants come first. `future` should await
/// something after each piece of its work.
pub(super) async fn within<T>(tenant: &Arc<Tenant>, future: impl Future<Output = T>) -> T {
    let mut turns = Turns::new(tenant);
    let mut future = pin!(future);
    let mut has_turn = false;
    loop {
        let polled = poll_fn(|context| {
            if turns.begin() && !has_turn {
                return Poll::Ready(None);
            }
            has_turn = false;
            let polled = future.as_mut().poll(context);
            turns.count();
            polled.map(Some)
        });
        match polled.await {
            Some(done) => return done,
            // A wake-up meanwhile is not lost: the future is polled after the turn in any case.
            None => turns.pass().await,
        }
        has_turn = true;
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Lets one connection of each waiting tenant continue, round after round, until none waits.
async fn dispatch() {
    loop {
        // Tasks that became ready meanwhile run first, and the runtime polls the kernel for events.
        tokio::task::yield_now().await;
        let round = WAITING.with_borrow(VecDeque::len);
        for _ in 0..round {
            let Some(share) = WAITING.with_borrow_mut(VecDeque::pop_front) else { break };
            share.used.store(0, Ordering::Relaxed);
            let most = if TENANTS.get() == 1 { ALONE } else { 1 };
            let more = {
                let mut waiting = share.waiting();
                let count = waiting.len().min(most);
                waiting.drain(..count).for_each(|next| next.notify_one());
                !waiting.is_empty()
            };
            if more {
                WAITING.with_borrow_mut(|waiting| waiting.push_back(share));
            }
        }
        if WAITING.with_borrow(VecDeque::is_empty) {
            DISPATCHING.set(false);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use vsock_cid::Cid;

    use super::*;
    use crate::tenant::{Key, Tenants};

    /// Connections of a tenant that always have work. Each counts its turns.
    fn busy(tenant: &Arc<Tenant>, connections: usize) -> Vec<tokio::task::JoinHandle<u32>> {
        let work = |tenant: Arc<Tenant>| async move {
            let mut turns = Turns::new(&tenant);
            let (start, mut count) = (Instant::now(), 0);
            while start.elapsed() < Duration::from_millis(400) {
                if turns.begin() {
                    turns.pass().await;
                }
                thread::sleep(SLICE);
                count += 1;
                // As a connection does after a slice of its own.
                let _ = turns.count();
                turns.pass().await;
            }
            count
        };
        (0..connections).map(|_| tokio::spawn(work(Arc::clone(tenant)))).collect()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_tenant_with_many_connections_has_as_many_turns_as_a_tenant_with_one() {
        let tenants = Tenants::default();
        let (many, one) = (tenants.get(Key::Cid(Cid::new(3))), tenants.get(Key::Cid(Cid::new(4))));
        let crowd = busy(&many, 50);
        let single = busy(&one, 1).pop().unwrap().await.unwrap();
        let mut all = 0;
        for task in crowd {
            all += task.await.unwrap();
        }
        assert!(single * 3 >= all, "{single} turns of the one, {all} of the many");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_tenant_alone_on_a_thread_goes_on_at_once() {
        let tenants = Tenants::default();
        let mut turns = Turns::new(&tenants.get(Key::Cid(Cid::new(3))));
        assert!(!turns.begin(), "nothing is used");
        thread::sleep(SLICE);
        assert!(!turns.count(), "nobody waits");
        tokio::time::timeout(Duration::from_secs(20), turns.pass()).await.unwrap();
        // Time is counted as soon as another tenant is connected.
        let other = Turns::new(&tenants.get(Key::Cid(Cid::new(4))));
        assert!(!turns.begin());
        thread::sleep(SLICE);
        assert!(turns.count());
        tokio::time::timeout(Duration::from_secs(20), turns.pass()).await.unwrap();
        assert!(!turns.begin(), "a new slice");
        drop(other);
        thread::sleep(SLICE);
        assert!(!turns.count(), "it has gone");
    }

    /// Simulates a storm of handshakes: many connections of one tenant become ready at once, and each has work of a
    /// millisecond. Returns the longest time that another tenant waits until it is polled.
    async fn waits_beside_a_storm<T>(noise: impl Fn(Arc<Tenant>) -> T) -> Duration
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let tenants = Tenants::default();
        let (storm, other) =
            (tenants.get(Key::Cid(Cid::new(3))), tenants.get(Key::Cid(Cid::new(4))));
        let _other = Turns::new(&other);
        let tasks: Vec<_> = (0..100).map(|_| tokio::spawn(noise(Arc::clone(&storm)))).collect();
        let mut worst = Duration::ZERO;
        while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
            let start = Instant::now();
            tokio::task::yield_now().await;
            worst = worst.max(start.elapsed());
        }
        worst
    }

    #[tokio::test(flavor = "current_thread")]
    async fn many_connections_that_become_ready_at_once_do_not_all_come_first() {
        const WORK: Duration = Duration::from_millis(1);
        // Like a handshake: some work, an answer from the client, more work.
        let work = async || {
            for _ in 0..2 {
                thread::sleep(WORK);
                tokio::task::yield_now().await;
            }
        };
        let without = waits_beside_a_storm(|_| work()).await;
        assert!(without >= 40 * WORK, "the test makes no noise: {without:?}");
        let with = waits_beside_a_storm(move |tenant| async move { within(&tenant, work()).await });
        let with = with.await;
        assert!(with <= 15 * WORK, "another tenant waited for {with:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn work_of_connections_that_seldom_work_is_counted_together() {
        let tenants = Tenants::default();
        let tenant = tenants.get(Key::Cid(Cid::new(3)));
        let mut turns: Vec<_> = (0..40).map(|_| Turns::new(&tenant)).collect();
        thread::sleep(WINDOW);
        let mut due = 0;
        for turns in &mut turns {
            due += u32::from(turns.begin());
            thread::sleep(SLICE / 4);
            turns.count();
        }
        assert!(due > 0, "each of them began a window of its own");
    }
}
