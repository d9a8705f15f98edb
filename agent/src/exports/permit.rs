//! The permit for a list or an export. `authorize` makes it after asking the rules.

use std::sync::Arc;

use super::Panicked;
use crate::{
    access::{Caller, Denied, Gate, Verdict, judge},
    peer::Peer,
    tenant::Tenant,
    tls::Certificate,
};

/// The connection that asks for an export. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub peer: Peer,
    /// The label that a security module gave the peer.
    pub label: Option<String>,
    /// Number of the connection in this agent, from 1.
    pub connection: u64,
    /// Writes will be refused (`-r`).
    pub read_only: bool,
    /// The connection is encrypted.
    pub tls: bool,
    /// The client's verified certificate; `None` without `--tls-verify-peer`.
    pub certificate: Option<Arc<Certificate>>,
    /// The tenant that the connection is charged to.
    pub tenant: Arc<Tenant>,
}

/// What a permit covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Covers {
    /// The names of all exports.
    List,
    /// The export by the client's name. Layers that change names do not change this one.
    Export(String),
}

/// Proof that the rules let a client have what it asked for.
#[derive(Debug, Clone)]
pub(crate) struct Permit {
    opening: Opening,
    covers: Covers,
}

/// Asks the gates whether a client may have a list or an export. The client has shown its certificate by then, if it has
/// one. Whether the export exists does not matter here.
///
/// # Errors
/// The rule that denies it.
pub(crate) fn authorize(
    gates: &[Arc<dyn Gate>],
    opening: &Opening,
    covers: Covers,
) -> Result<Permit, Denied> {
    let label = || opening.label.clone();
    let caller = Caller::new(&opening.peer, &label);
    let caller = caller.with_certificate(opening.certificate.as_deref());
    match judge(gates, &caller) {
        Verdict::Allowed => Ok(Permit { opening: opening.clone(), covers }),
        Verdict::Denied(denied) => Err(denied),
        Verdict::NotYet => Err(Denied::new("asked before the certificate was there")),
    }
}

impl Permit {
    /// The connection that has the permit.
    pub(crate) fn opening(&self) -> &Opening {
        &self.opening
    }

    /// The tenant that the connection is charged to.
    pub(crate) fn tenant(&self) -> &Arc<Tenant> {
        &self.opening.tenant
    }

    /// Runs work that takes a moment in the kernel, such as opening a file, on a thread that is charged to the tenant. Work
    /// that has begun runs to its end even if the caller stops waiting. Work that waits for another party (a lock, a
    /// command, a client, a time) does not belong here, because the requests of all clients need the few threads.
    ///
    /// # Errors
    /// If the work panics.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let tenant = &self.opening.tenant;
        let done = match self.covers {
            // A directory may have many entries, which are sorted.
            Covers::List => tenant.run_long(work).await,
            Covers::Export(_) => tenant.run(work).await,
        };
        done.ok_or(Panicked)
    }

    /// The export that the permit covers; `None` for a list.
    pub(crate) fn export(&self) -> Option<&str> {
        match &self.covers {
            Covers::List => None,
            Covers::Export(name) => Some(name),
        }
    }

    /// The permit of some connection, for tests.
    #[cfg(test)]
    pub(crate) fn any() -> Self {
        let peer = Peer::Unix { pid: 1, uid: 0, gid: 0 };
        let tenant = crate::tenant::Tenants::default().get(crate::tenant::Key::of(&peer, None));
        let opening = Opening {
            peer,
            label: None,
            connection: 1,
            read_only: false,
            tls: false,
            certificate: None,
            tenant,
        };
        Self { opening, covers: Covers::Export(String::new()) }
    }
}
