//! Places for connections: how many one tenant may have, and all of them.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
};

use super::{Tenant, threads::own_threads_within};

/// Descriptors of one connection: its socket, and up to four of its disk.
const PER_CONNECTION: u64 = 5;
/// Descriptors of the agent itself: listeners, logs, files of its disks.
const OWN: u64 = 64;
/// The same for each thread that serves connections: of its event loop and its ring.
const PER_THREAD: u64 = 7;

/// The number of connections that may be open at once when the process may have `descriptors` open files. At least
/// 2, since a tenant gets at most half: one connection is always possible.
pub fn connections_within(descriptors: u64) -> usize {
    // One a processor, and those that connections have to themselves.
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64
        + own_threads_within(descriptors) as u64;
    let connections = descriptors.saturating_sub(OWN + threads * PER_THREAD) / PER_CONNECTION;
    usize::try_from(connections).unwrap_or(usize::MAX).max(2)
}

/// A tenant's place for one connection; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Tenant>);

/// There is no place for one more connection of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// It has as many as one tenant may have.
    #[error("--limit-per-tenant {0}, and {0} open")]
    Tenant(usize),
    /// It would have more of them than it leaves free to others.
    #[error(
        "the limit of open files is enough for {in_all} connections, of which one tenant has as many as it \
         leaves free: {open} open"
    )]
    All {
        /// Connections that there may be in all.
        in_all: usize,
        /// Those of this tenant.
        open: usize,
    },
}

impl Tenant {
    /// Takes a place for a connection.
    ///
    /// # Errors
    /// `Full` if the tenant has as many connections as it may have.
    pub fn connect(self: &Arc<Self>) -> Result<Place, Full> {
        let open = self.connections.fetch_add(1, Ordering::AcqRel);
        let others_and_own = self.all_connections.fetch_add(1, Ordering::AcqRel) + 1;
        // From here on a drop gives the place back.
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
    /// A place for what a connection leaves behind that is over, whatever the limits say: it keeps its disk open, and
    /// its client could come again and again.
    pub fn stay(self: &Arc<Self>) -> Place {
        self.connections.fetch_add(1, Ordering::AcqRel);
        self.all_connections.fetch_add(1, Ordering::AcqRel);
        Place(Arc::clone(self))
    }
}

impl Place {
    /// Whose place it is.
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.0
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

    use super::*;
    use crate::tenant::{Key, Limits, Tenants};

    /// As many places as the tenant gets.
    fn take_all(tenant: &Arc<Tenant>) -> Vec<Place> {
        iter::from_fn(|| tenant.connect().ok()).collect()
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let tenants = Tenants::new(Limits { connections: 2, ..Limits::default() });
        let tenant = tenants.get(Key::Cid(3));
        let (first, _second) = (tenant.connect().unwrap(), tenant.connect().unwrap());
        assert_eq!(tenants.get(Key::Cid(3)).connect().unwrap_err(), Full::Tenant(2));
        assert!(tenants.get(Key::Cid(4)).connect().is_ok());
        drop(first);
        assert!(tenant.connect().is_ok());
    }

    #[test]
    fn a_tenant_that_takes_all_places_leaves_as_many_as_it_has() {
        let limits = Limits { connections: 100, connections_in_all: 40, ..Limits::default() };
        let tenants = Tenants::new(limits);
        let [first, second, third] = [3, 4, 5].map(|cid| tenants.get(Key::Cid(cid)));
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
