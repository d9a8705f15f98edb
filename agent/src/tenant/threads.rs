//! Threads that serve one connection each: bounds per tenant and in all.

use std::{
    io,
    sync::{Arc, LazyLock, atomic::Ordering},
    thread::available_parallelism,
};

use tokio::runtime::Handle;

use super::Tenant;
use crate::event_loop::EventLoop;

/// The maximum for all tenants. A tenant may have as many as it leaves free.
pub(super) const OWN_THREADS: usize = 32;
/// Descriptors that the process must be allowed per such thread: nine in ten are left for connections.
const DESCRIPTORS_EACH: u64 = 70;
/// The maximum per tenant. More could not run at once, and would only take turns from other tenants.
static PER_TENANT: LazyLock<usize> =
    LazyLock::new(|| available_parallelism().map_or(2, |cores| cores.get().max(2)));

/// The number of such threads in all when the process may have `descriptors` open files.
pub(crate) fn own_threads_within(descriptors: u64) -> usize {
    usize::try_from(descriptors / DESCRIPTORS_EACH).unwrap_or(usize::MAX).min(OWN_THREADS)
}

/// A thread of a tenant that serves one connection and may be blocked by it. It ends on drop.
#[derive(Debug)]
pub(crate) struct OwnThread(EventLoop);

/// Counts the thread while it runs, which may be longer than its `OwnThread` exists.
#[derive(Debug)]
struct Counted(Arc<Tenant>);

impl Tenant {
    /// Starts a thread for one connection; `None` if the tenant has as many as it may have.
    ///
    /// # Errors
    /// Those of `EventLoop::start`.
    pub(crate) fn own_thread(self: &Arc<Self>) -> io::Result<Option<OwnThread>> {
        let has = self.own_threads.fetch_add(1, Ordering::AcqRel);
        let all = self.all_own_threads.fetch_add(1, Ordering::AcqRel) + 1;
        let counted = Counted(Arc::clone(self));
        if has >= *PER_TENANT || has + 1 > self.limits.own_threads.saturating_sub(all) {
            return Ok(None);
        }
        EventLoop::start(format!("own-{all}"), counted).map(|thread| Some(OwnThread(thread)))
    }
}

impl OwnThread {
    /// The handle to spawn tasks on the thread.
    pub(crate) fn handle(&self) -> &Handle {
        self.0.handle()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.own_threads.fetch_sub(1, Ordering::AcqRel);
        self.0.all_own_threads.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::{iter, thread, time::Duration};

    use vsock_cid::Cid;

    use super::*;
    use crate::tenant::{Key, Tenants};

    #[test]
    fn no_tenant_has_the_threads_of_others_and_those_that_end_are_free_again() {
        let tenants = Tenants::default();
        let all = || tenants.own_threads.load(Ordering::Acquire);
        let take = |cid| {
            let tenant = tenants.get(Key::Cid(Cid::new(cid)));
            iter::from_fn(|| tenant.own_thread().unwrap()).collect::<Vec<_>>()
        };
        let first = take(3);
        assert_eq!(first.len(), (*PER_TENANT).min(OWN_THREADS / 2));
        let others: Vec<_> = (4..100).map(take).collect();
        assert!(!others[0].is_empty() && !others[1].is_empty(), "nothing is left for others");
        assert!(all() <= OWN_THREADS);
        drop((first, others));
        let start = std::time::Instant::now();
        while all() > 0 {
            assert!(start.elapsed() < Duration::from_secs(20), "{} threads do not end", all());
            thread::yield_now();
        }
    }
}
