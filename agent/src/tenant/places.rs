//! Places for connections: bounds per tenant and in all.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
};

use super::{Tenant, threads::own_threads_within};

/// Descriptors per connection: its socket, and up to four for its disk.
const PER_CONNECTION: u64 = 5;
/// Descriptors of the agent itself: listeners, logs, files of its disks.
const OWN: u64 = 64;
/// Descriptors per thread that serves connections: for its event loop and its ring.
const PER_THREAD: u64 = 7;

/// The number of connections that may be open at once when the process may have `descriptors` open files. It is at
/// least 2: a tenant gets at most half, so one connection is always possible.
pub(crate) fn connections_within(descriptors: u64) -> usize {
    // One thread per processor, and the threads that serve one connection each.
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64
        + own_threads_within(descriptors) as u64;
    let connections = descriptors.saturating_sub(OWN + threads * PER_THREAD) / PER_CONNECTION;
    usize::try_from(connections).unwrap_or(usize::MAX).max(2)
}

/// A tenant's place for one connection. It is freed on drop.
#[derive(Debug)]
pub(crate) struct Place(Arc<Tenant>);

/// There is no place for one more connection of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// The tenant has reached the limit per tenant, which is the value.
    #[error("--limit-per-tenant {0}, and {0} open")]
    Tenant(usize),
    /// The tenant would have more connections than it leaves free for others.
    #[error(
        "the limit of open files is enough for {in_all} connections, of which one tenant has as many as it \
         leaves free: {open} open"
    )]
    All {
        /// The limit of connections in all.
        in_all: usize,
        /// Open connections of this tenant.
        open: usize,
    },
}

impl Tenant {
    /// Takes a place for a connection.
    ///
    /// # Errors
    /// `Full` if the tenant has as many connections as it may have.
    pub(crate) fn connect(self: &Arc<Self>) -> Result<Place, Full> {
        let open = self.connections.fetch_add(1, Ordering::AcqRel);
        let others_and_own = self.all_connections.fetch_add(1, Ordering::AcqRel) + 1;
        // From here on a drop frees the place.
        let place = Place(Arc::clone(self));
        self.touch();
        let in_all = self.limits.connections_in_all;
        if open >= self.limits.connections {
            return Err(Full::Tenant(self.limits.connections));
        }
        if open + 1 > in_all.saturating_sub(others_and_own) {
            return Err(Full::All { in_all, open });
        }
        Ok(place)
    }
}

impl Tenant {
    /// A place for requests that outlive their connection, regardless of the limits. They keep the disk open, and
    /// without a place the client could reconnect again and again.
    pub(crate) fn stay(self: &Arc<Self>) -> Place {
        self.connections.fetch_add(1, Ordering::AcqRel);
        self.all_connections.fetch_add(1, Ordering::AcqRel);
        Place(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
        self.0.all_connections.fetch_sub(1, Ordering::AcqRel);
        self.0.touch();
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use vsock_cid::Cid;

    use super::*;
    use crate::tenant::{Key, Limits, Tenants};

    /// As many places as the tenant gets.
    fn take_all(tenant: &Arc<Tenant>) -> Vec<Place> {
        iter::from_fn(|| tenant.connect().ok()).collect()
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let tenants = Tenants::new(Limits { connections: 2, ..Limits::default() });
        let tenant = tenants.get(Key::Cid(Cid::new(3)));
        let (first, _second) = (tenant.connect().unwrap(), tenant.connect().unwrap());
        assert_eq!(tenants.get(Key::Cid(Cid::new(3))).connect().unwrap_err(), Full::Tenant(2));
        assert!(tenants.get(Key::Cid(Cid::new(4))).connect().is_ok());
        drop(first);
        assert!(tenant.connect().is_ok());
    }

    #[test]
    fn a_tenant_that_takes_all_places_leaves_as_many_as_it_has() {
        let limits = Limits { connections: 100, connections_in_all: 40, ..Limits::default() };
        let tenants = Tenants::new(limits);
        let [first, second, third] = [3, 4, 5].map(|cid| tenants.get(Key::Cid(Cid::new(cid))));
        let mut places = take_all(&first);
        assert_eq!(places.len(), 20);
        assert_eq!(first.connect().unwrap_err(), Full::All { in_all: 40, open: 20 });
        let more = take_all(&second);
        assert_eq!((more.len(), take_all(&third).len()), (10, 5));
        places.truncate(4);
        drop(more);
        assert_eq!(take_all(&third).len(), 18, "what others gave back is there for the next");
    }

    #[test]
    fn descriptors_are_shared_out() {
        assert_eq!(connections_within(0), 2);
        assert!((100_000..131_072).contains(&connections_within(1 << 19)));
    }
}
