//! The right of a virtual machine to connect, as long as it lives.
//!
//! A CID is an address, which the next machine may have. So the right to connect belongs to a lease. `machines` holds
//! it, and follows the life of the machine. The gate admits guests whose CID has a lease.

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;
use vsock_cid::GuestCid;

use crate::{
    access::{Caller, Denied, Gate, Pass, Revoker},
    peer::{Peer, VsockKind},
};

/// All leases of an agent. As a gate it admits, over vsock, only guests with a lease. Over other sockets it admits
/// every peer.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<GuestCid, Grant>>);

struct Grant {
    machine: Arc<str>,
    /// Ends the open connections.
    revoker: Revoker,
    /// Keeps the CID reserved for this machine; each connection holds it too.
    claim: Arc<dyn Any + Send + Sync>,
}

/// The error that a CID has a lease already.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("CID {cid} is granted to {machine} already")]
pub(crate) struct Taken {
    pub cid: GuestCid,
    pub machine: Arc<str>,
}

impl Leases {
    /// Admits the guest with this CID until the lease is dropped. `claim` is kept until then, and until the last
    /// connection is closed.
    pub(crate) fn grant(
        self: &Arc<Self>,
        cid: GuestCid,
        machine: &str,
        claim: impl Any + Send + Sync,
    ) -> Result<Lease, Taken> {
        let mut grants = self.grants();
        if let Some(grant) = grants.get(&cid) {
            return Err(Taken { cid, machine: Arc::clone(&grant.machine) });
        }
        let (machine, claim) = (machine.into(), Arc::new(claim));
        grants.insert(cid, Grant { machine, revoker: Revoker::default(), claim });
        Ok(Lease { leases: Arc::clone(self), cid })
    }

    fn grants(&self) -> MutexGuard<'_, HashMap<GuestCid, Grant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate for Leases {
    fn admit(&self, caller: &Caller<'_>) -> Result<Pass, Denied> {
        let denied = || Denied::new("no lease: over vsock only the machines of --qmp may connect");
        let Peer::Vsock { cid, .. } = caller.peer else { return Ok(Pass::default()) };
        if caller.peer.vsock_kind() != Some(VsockKind::Guest) {
            return Err(denied());
        }
        // Under the lock, so that a revocation either happens before this or is seen by the connection.
        let grants = self.grants();
        let grant =
            GuestCid::try_from(*cid).ok().and_then(|cid| grants.get(&cid)).ok_or_else(denied)?;
        let revocation = grant.revoker.revocation();
        let machine = Arc::clone(&grant.machine);
        Ok(Pass::holding(Arc::clone(&grant.claim)).until(revocation).of_machine(machine))
    }
}

/// The lease of one machine. It is withdrawn on drop.
#[derive(Debug)]
#[must_use = "a lease that is dropped is withdrawn"]
pub(crate) struct Lease {
    leases: Arc<Leases>,
    cid: GuestCid,
}

impl Lease {
    pub(crate) fn cid(&self) -> GuestCid {
        self.cid
    }

    /// Closes the open connections. New ones are still admitted.
    pub(crate) fn reset(&self, why: &str) {
        if let Some(grant) = self.leases.grants().get_mut(&self.cid) {
            std::mem::take(&mut grant.revoker).revoke(why);
        }
    }

    /// Closes the open connections, and admits no new ones.
    pub(crate) fn withdraw(self, why: &str) {
        self.end(why);
    }

    fn end(&self, why: &str) {
        if let Some(grant) = self.leases.grants().remove(&self.cid) {
            grant.revoker.revoke(why);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end("its lease has ended");
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("machine", &self.machine).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use vsock_cid::Cid;

    use super::*;

    fn guest(cid: u32) -> Peer {
        Peer::Vsock { cid: Cid::new(cid), port: 1, to: Cid::HOST }
    }

    fn cid(number: u32) -> GuestCid {
        GuestCid::new(number).unwrap()
    }

    fn admit(leases: &Leases, peer: &Peer) -> Result<Pass, Denied> {
        leases.admit(&Caller::new(peer, &|| None))
    }

    #[test]
    fn over_vsock_only_guests_with_a_lease_come_in() {
        let leases = Arc::new(Leases::default());
        let _lease = leases.grant(cid(7), "vm", ()).unwrap();
        for (peer, comes_in) in [
            (guest(7), true),
            (guest(8), false),
            (Peer::Vsock { cid: Cid::new(1), port: 1, to: Cid::new(1) }, false),
            (Peer::Vsock { cid: Cid::new(2), port: 1, to: Cid::new(7) }, false),
            // The same number, but in the numbering of this machine's own host.
            (Peer::Vsock { cid: Cid::new(7), port: 1, to: Cid::new(5) }, false),
            (Peer::Unix { pid: 1, uid: 0, gid: 0 }, true),
            (Peer::Pipe, true),
        ] {
            assert_eq!(admit(&leases, &peer).is_ok(), comes_in, "{peer}");
        }
        let denied = admit(&leases, &guest(8)).unwrap_err();
        assert!(denied.rule.contains("--qmp"), "{denied}");
    }

    #[test]
    fn a_cid_is_granted_once_at_a_time() {
        let leases = Arc::new(Leases::default());
        let lease = leases.grant(cid(7), "vm-a", ()).unwrap();
        let taken = leases.grant(cid(7), "vm-b", ()).unwrap_err();
        assert_eq!(taken.to_string(), "CID 7 is granted to vm-a already");
        lease.withdraw("over");
        assert!(leases.grant(cid(7), "vm-b", ()).is_ok());
    }

    #[tokio::test]
    async fn a_reset_ends_open_connections_and_the_end_of_the_lease_ends_all() {
        let leases = Arc::new(Leases::default());
        let lease = leases.grant(cid(7), "vm", ()).unwrap();
        let before = admit(&leases, &guest(7)).unwrap();
        lease.reset("again");
        let after = admit(&leases, &guest(7)).unwrap();
        assert_eq!(&*before.revocation().unwrap().clone().revoked().await, "again");
        lease.withdraw("over");
        assert_eq!(&*after.revocation().unwrap().clone().revoked().await, "over");
        assert!(admit(&leases, &guest(7)).is_err());
        // The next machine with this CID is not affected by the end of the last one.
        let _next = leases.grant(cid(7), "next", ()).unwrap();
        assert!(admit(&leases, &guest(7)).is_ok());
    }

    #[tokio::test]
    async fn a_lease_that_is_lost_is_withdrawn() {
        let leases = Arc::new(Leases::default());
        let pass = {
            let _lease = leases.grant(cid(7), "vm", ()).unwrap();
            admit(&leases, &guest(7)).unwrap()
        };
        assert!(admit(&leases, &guest(7)).is_err());
        pass.revocation().unwrap().clone().revoked().await;
    }

    #[test]
    fn the_claim_is_held_until_the_last_connection_is_closed() {
        let leases = Arc::new(Leases::default());
        let claim = Arc::new(());
        let lease = leases.grant(cid(7), "vm", Arc::clone(&claim)).unwrap();
        let pass = admit(&leases, &guest(7)).unwrap();
        lease.withdraw("over");
        assert_eq!(Arc::strong_count(&claim), 2);
        drop(pass);
        assert_eq!(Arc::strong_count(&claim), 1);
    }
}
