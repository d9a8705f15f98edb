//! The right to an export: made where the rules have been asked, and needed to list and to open.

use std::sync::Arc;

use super::Panicked;
use crate::{
    access::{Caller, Denied, Gate, Verdict, judge},
    peer::Peer,
    tenant::Tenant,
    tls::Certificate,
};

/// Who asks, and how. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Opening {
    pub peer: Peer,
    /// What a security module calls it.
    pub label: Option<String>,
    /// Counts the agent's connections, from 1.
    pub connection: u64,
    /// Writes will be refused (`-r`).
    pub read_only: bool,
    /// The connection is encrypted.
    pub tls: bool,
    /// The client's, verified; `None` unless `--tls-verify-peer`.
    pub certificate: Option<Arc<Certificate>>,
    /// Whom the connection is charged to.
    pub tenant: Arc<Tenant>,
}

/// What a client asks for, and what a permit covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Covers {
    /// The names of all exports.
    List,
    /// The export of this name, which is the client's word for it: layers that change names do not change
    /// it.
    Export(String),
}

/// Proof that the rules let a client have what it asked for.
#[derive(Debug, Clone)]
pub struct Permit {
    opening: Opening,
    covers: Covers,
}

/// Asks the gates whether a client may have what it asks for. By then it has shown a certificate, or it has
/// none. Whether there is such an export does not matter here.
///
/// # Errors
/// The rule that forbids it.
pub fn authorize(
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
    /// Who has it.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Whom the connection is charged to.
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.opening.tenant
    }

    /// Does what takes a moment in the kernel (to open a file, to read a directory, to make something durable) on a
    /// thread of its own, charged to the tenant. When the caller stops waiting, work that has begun goes on to its
    /// end. What waits for somebody else (a lock, a command, another client, a time) never comes here: the threads
    /// are few, and the requests of all clients need them.
    ///
    /// # Errors
    /// The work has panicked.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let tenant = &self.opening.tenant;
        let done = match self.covers {
            // A directory may have many entries, and they are put in order.
            Covers::List => tenant.run_long(work).await,
            Covers::Export(_) => tenant.run(work).await,
        };
        done.ok_or(Panicked)
    }

    /// The export that it covers. One to list covers none by name.
    pub fn export(&self) -> Option<&str> {
        match &self.covers {
            Covers::List => None,
            Covers::Export(name) => Some(name),
        }
    }

    /// Of a connection that a test has no other words for.
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
