//! Turns of the tenants on one engine thread.
//!
//! tokio runs ready tasks in the order in which they became ready, so a tenant with a thousand busy
//! connections would have a thousand turns while another has one. Here a connection counts the time that it
//! works to its tenant, and one whose tenant has had its slice waits until every other tenant that waits has
//! had a turn. A tenant that is alone goes on after one yield.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::tenant::Tenant;

/// How long a tenant's connections work on a thread before others have their turn.
pub(super) const SLICE: Duration = Duration::from_micros(500);
/// What was used is forgotten after so long: a tenant that works less than a quarter of the time never
/// waits.
const WINDOW: Duration = Duration::from_millis(2);

thread_local! {
    /// The shares of this thread's tenants.
    static SHARES: RefCell<HashMap<usize, Weak<Share>>> = RefCell::default();
    /// Tenants with connections that wait, each once.
    static WAITING: RefCell<VecDeque<Arc<Share>>> = RefCell::default();
    static DISPATCHING: Cell<bool> = const { Cell::new(false) };
}

/// A tenant on one thread.
#[derive(Debug, Default)]
struct Share {
    /// Nanoseconds that its connections have worked in the current window.
    used: AtomicU64,
    /// Its connections that wait, the first to go on in front.
    waiting: Mutex<VecDeque<Arc<Notify>>>,
}

impl Share {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's part in the turns of its thread.
#[derive(Debug)]
pub(super) struct Turns {
    share: Arc<Share>,
    /// When the connection began to work, or was last counted.
    since: Instant,
    window: Instant,
}

impl Turns {
    /// Of a connection that runs on this thread, and will.
    pub(super) fn new(tenant: &Arc<Tenant>) -> Self {
        let id = Arc::as_ptr(tenant).addr();
        let share = SHARES.with_borrow_mut(|shares| {
            if let Some(share) = shares.get(&id).and_then(Weak::upgrade) {
                return share;
            }
            shares.retain(|_, share| share.strong_count() > 0);
            let share = Arc::default();
            shares.insert(id, Arc::downgrade(&share));
            share
        });
        let now = Instant::now();
        Self { share, since: now, window: now }
    }

    /// The connection begins to work, after it has waited.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Counts the time since it began or was counted. True: the tenant has had its slice, and `pass` is due.
    pub(super) fn count(&mut self) -> bool {
        let now = Instant::now();
        let worked = u64::try_from((now - self.since).as_nanos()).unwrap_or(u64::MAX);
        self.since = now;
        if now - self.window >= WINDOW {
            self.window = now;
            self.share.used.store(worked, Ordering::Relaxed);
            return Duration::from_nanos(worked) >= SLICE;
        }
        let before = self.share.used.fetch_add(worked, Ordering::Relaxed);
        Duration::from_nanos(before.saturating_add(worked)) >= SLICE
    }

    /// Waits for the tenant's next turn.
    pub(super) async fn pass(&mut self) {
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
        self.begin();
    }
}

/// Lets one connection of each waiting tenant go on, round after round, until none waits.
async fn dispatch() {
    loop {
        // What became ready meanwhile goes first, and so does what the kernel has to tell.
        tokio::task::yield_now().await;
        let round = WAITING.with_borrow(VecDeque::len);
        for _ in 0..round {
            let Some(share) = WAITING.with_borrow_mut(VecDeque::pop_front) else { break };
            share.used.store(0, Ordering::Relaxed);
            let (next, more) = {
                let mut waiting = share.waiting();
                (waiting.pop_front(), !waiting.is_empty())
            };
            if more {
                WAITING.with_borrow_mut(|waiting| waiting.push_back(share));
            }
            if let Some(next) = next {
                next.notify_one();
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

    use super::*;
    use crate::tenant::{Key, Tenants};

    /// Connections of a tenant that always have something to do; each counts its turns.
    fn busy(tenant: &Arc<Tenant>, connections: usize) -> Vec<tokio::task::JoinHandle<u32>> {
        let work = |tenant: Arc<Tenant>| async move {
            let mut turns = Turns::new(&tenant);
            let (start, mut count) = (Instant::now(), 0);
            while start.elapsed() < Duration::from_millis(400) {
                turns.begin();
                thread::sleep(SLICE);
                count += 1;
                if turns.count() {
                    turns.pass().await;
                }
            }
            count
        };
        (0..connections).map(|_| tokio::spawn(work(Arc::clone(tenant)))).collect()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_tenant_with_many_connections_has_as_many_turns_as_one_with_one() {
        let tenants = Tenants::default();
        let (many, one) = (tenants.get(Key::Cid(3)), tenants.get(Key::Cid(4)));
        let crowd = busy(&many, 50);
        let single = busy(&one, 1).pop().unwrap().await.unwrap();
        let mut all = 0;
        for task in crowd {
            all += task.await.unwrap();
        }
        assert!(single * 3 >= all, "{single} turns of the one, {all} of the many");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_is_alone_goes_on_at_once() {
        let tenants = Tenants::default();
        let mut turns = Turns::new(&tenants.get(Key::Cid(3)));
        turns.begin();
        thread::sleep(SLICE);
        assert!(turns.count());
        tokio::time::timeout(Duration::from_secs(20), turns.pass()).await.unwrap();
        turns.begin();
        assert!(!turns.count(), "a new slice");
    }
}
