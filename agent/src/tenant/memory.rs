//! Memory that connections hold, counted per connection, per tenant and in all.
//!
//! Each connection has an `Account`. Before it takes in a request it covers the memory that the request will hold. If
//! the limits do not allow that, the connection waits, and reads no more. The count is of memory that cannot be
//! returned to the kernel: the whole allocation that a small reply keeps alive, not the bytes on the wire.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Tenant;

/// Bytes that every connection may hold uncounted, so that small requests make progress however much the tenant's other
/// connections hold.
pub(crate) const FREE: u64 = 64 << 10;
/// The unit of the count, in bytes.
const UNIT: u64 = 64 << 10;
/// The minimum that a connection acquires at once, in bytes.
const STEP: u64 = 256 << 10;
/// The interval between two checks whether other tenants have released memory.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Limits in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryLimits {
    /// Bytes that one connection may hold.
    pub connection: u64,
    /// Bytes that all connections of one tenant may hold.
    pub tenant: u64,
    /// Bytes that all connections may hold. A tenant may have as much as is left after that, so that a tenant that
    /// comes late finds some.
    pub total: u64,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { connection: 128 << 20, tenant: 256 << 20, total: 1 << 40 }
    }
}

impl MemoryLimits {
    /// The maximum that one connection can ever hold, in bytes.
    fn most(&self) -> u64 {
        self.connection.min(self.tenant).min(self.total / 2)
    }
}

/// The memory that all tenants hold together, in bytes.
#[derive(Debug, Default)]
pub(super) struct Pool {
    used: AtomicU64,
}

impl Pool {
    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }
}

/// The memory that one tenant holds.
#[derive(Debug)]
pub(super) struct Share {
    limits: MemoryLimits,
    pool: Arc<Pool>,
    /// One permit per `UNIT`. Waiting connections get them in order.
    units: Arc<Semaphore>,
    used: AtomicU64,
}

impl Share {
    pub(super) fn new(limits: MemoryLimits, pool: Arc<Pool>) -> Self {
        let units = usize::try_from(limits.tenant / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        let units = Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)));
        Self { limits, pool, units, used: AtomicU64::new(0) }
    }

    /// Counts `bytes` more. Returns false, and counts nothing, if that would leave too little for others.
    fn take(&self, bytes: u64) -> bool {
        let all = self.pool.used.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let own = self.used.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let fits = own <= self.limits.total.saturating_sub(all);
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.pool.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// Whether the memory that a connection needs is covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cover {
    Covered,
    /// Not now: `Account::acquire` waits for it.
    Wait,
    /// Never: it is more than a connection can ever hold.
    TooMuch,
}

/// The memory that one connection may hold at the moment. Released on drop.
#[derive(Debug)]
pub(crate) struct Account {
    tenant: Arc<Tenant>,
    /// Bytes in addition to `FREE`.
    lease: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl Account {
    /// An account for a connection that holds nothing yet.
    pub(crate) fn new(tenant: Arc<Tenant>) -> Self {
        Self { tenant, lease: 0, permit: None }
    }

    /// The maximum that it can ever cover, in bytes.
    pub(crate) fn most(&self) -> u64 {
        self.share().limits.most()
    }

    fn share(&self) -> &Share {
        &self.tenant.memory
    }

    /// Bytes to acquire for `held`: a multiple of `UNIT`, and at least `STEP` unless it is 0.
    fn missing(&self, held: u64) -> u64 {
        let missing = held.saturating_sub(FREE + self.lease);
        if missing == 0 { 0 } else { missing.max(STEP).next_multiple_of(UNIT) }
    }

    /// Covers `held` bytes in all, if that is possible at once.
    #[inline]
    pub(crate) fn cover(&mut self, held: u64) -> Cover {
        if held <= FREE + self.lease { Cover::Covered } else { self.grow(held) }
    }

    fn grow(&mut self, held: u64) -> Cover {
        if held > self.most() {
            return Cover::TooMuch;
        }
        let missing = self.missing(held);
        let units = u32::try_from(missing / UNIT).unwrap_or(u32::MAX);
        match Arc::clone(&self.share().units).try_acquire_many_owned(units) {
            Ok(permit) if self.share().take(missing) => {
                self.add(permit, missing);
                Cover::Covered
            }
            _ => Cover::Wait,
        }
    }

    fn add(&mut self, permit: OwnedSemaphorePermit, bytes: u64) {
        self.lease += bytes;
        match &mut self.permit {
            Some(own) => own.merge(permit),
            None => self.permit = Some(permit),
        }
    }

    /// Waits until `held` bytes in all are covered. Connections of a tenant are served in the order in which they
    /// asked. Dropping the future loses nothing.
    pub(crate) async fn acquire(&mut self, held: u64) {
        let missing = self.missing(held);
        if missing == 0 {
            return;
        }
        let units = u32::try_from(missing / UNIT).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&self.share().units).acquire_many_owned(units).await else {
            return;
        };
        while !self.share().take(missing) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.add(permit, missing);
    }

    /// Releases the memory that `held` bytes do not need.
    pub(crate) fn release_to(&mut self, held: u64) {
        let needed = held.saturating_sub(FREE).next_multiple_of(UNIT);
        let more = self.lease.saturating_sub(needed);
        if more == 0 {
            return;
        }
        let units = usize::try_from(more / UNIT).unwrap_or(0);
        self.lease -= more;
        self.share().give_back(more);
        if self.lease == 0 {
            self.permit = None;
        } else if let Some(permit) = &mut self.permit {
            drop(permit.split(units));
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.release_to(0);
    }
}

#[cfg(test)]
mod tests {
    use vsock_cid::Cid;

    use super::*;
    use crate::tenant::{Key, Limits, Tenants};

    const MIB: u64 = 1 << 20;

    fn tenants(connection: u64, tenant: u64, total: u64) -> Tenants {
        let memory = MemoryLimits { connection, tenant, total };
        Tenants::new(Limits { memory, ..Limits::default() })
    }

    fn account(tenants: &Tenants, cid: u32) -> Account {
        Account::new(tenants.get(Key::Cid(Cid::new(cid))))
    }

    #[test]
    fn a_connection_and_a_tenant_have_their_limits_and_small_things_always_go() {
        let tenants = tenants(8 * MIB, 12 * MIB, 100 * MIB);
        let (mut first, mut second) = (account(&tenants, 3), account(&tenants, 3));
        assert_eq!(first.cover(8 * MIB), Cover::Covered);
        assert_eq!(first.cover(8 * MIB + 1), Cover::TooMuch);
        assert_eq!(second.cover(8 * MIB), Cover::Wait);
        assert_eq!(second.cover(3 * MIB), Cover::Covered);
        let mut third = account(&tenants, 3);
        assert_eq!(third.cover(MIB + MIB / 2), Cover::Wait);
        assert_eq!(third.cover(FREE), Cover::Covered);
        assert_eq!(account(&tenants, 4).cover(8 * MIB), Cover::Covered, "another tenant");
        first.release_to(0);
        assert_eq!(third.cover(4 * MIB), Cover::Covered);
    }

    #[test]
    fn a_tenant_that_comes_late_finds_memory() {
        let tenants = tenants(64 * MIB, 64 * MIB, 64 * MIB);
        let mut greedy = account(&tenants, 3);
        assert_eq!(greedy.cover(33 * MIB), Cover::TooMuch, "half of all is left for others");
        assert_eq!(greedy.cover(32 * MIB), Cover::Covered);
        let mut more = account(&tenants, 3);
        assert_eq!(more.cover(8 * MIB), Cover::Wait);
        let mut late: Vec<_> = (4..8).map(|cid| account(&tenants, cid)).collect();
        for account in &mut late {
            assert_eq!(account.cover(2 * MIB), Cover::Covered);
        }
    }

    #[tokio::test]
    async fn waiting_connections_are_served_in_order_and_a_dropped_wait_takes_nothing() {
        let tenants = tenants(8 * MIB, 8 * MIB, 100 * MIB);
        let (mut first, mut second) = (account(&tenants, 3), account(&tenants, 3));
        assert_eq!(first.cover(8 * MIB), Cover::Covered);
        {
            let waiting = std::pin::pin!(second.acquire(8 * MIB));
            let gone = tokio::time::timeout(Duration::from_millis(20), waiting).await;
            gone.unwrap_err();
        }
        let mut third = account(&tenants, 3);
        let waiting = tokio::spawn(async move {
            third.acquire(8 * MIB).await;
            third
        });
        tokio::task::yield_now().await;
        drop(first);
        let third = waiting.await.unwrap();
        assert_eq!(second.cover(MIB), Cover::Wait);
        drop(third);
        assert_eq!(second.cover(8 * MIB), Cover::Covered);
        drop(second);
        assert_eq!(tenants.memory_used(), 0);
    }
}
