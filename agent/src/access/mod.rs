//! Who may connect. Rules and limits decide about each connection before the agent sends a byte.
//!
//! `session` asks the gates of the command line (`config`) and of the filters (`crate::gate`). Nothing here knows NBD.
//! A decision neither waits nor reads a file: `config` reads the access file at start and at HUP.

mod changes;
mod config;
mod file;
mod glob;
mod limit;
mod list;
mod number;
mod policy;
mod revocation;
mod rule;

use std::{any::Any, cell::OnceCell, fmt, sync::Arc};

use thiserror::Error;

pub(crate) use self::{
    changes::{Changed, Changes},
    config::{AccessConfig, AccessConfigError, ConfiguredGates},
    file::{LineError, parse_file},
    limit::Limit,
    list::{ListError, parse_cids, parse_list},
    number::{Numbers, parse_number},
    policy::{Action, NeedsCertificate, Policy, Verdict},
    revocation::{Revocation, Revoker},
    rule::{Match, Rule, RuleError},
};
use crate::{peer::Peer, tls::Certificate};

/// Decides which connections are let in.
pub(crate) trait Gate: Send + Sync + fmt::Debug {
    /// Lets the caller in, or says which rule forbids it.
    fn admit(&self, caller: &Caller<'_>) -> Result<Pass, Denied>;

    /// The verdict of the rules on a caller. It is asked for before each list and each export, and for all open connections
    /// after the rules have changed (`Changes`). It takes no place.
    fn judge(&self, _: &Caller<'_>) -> Verdict {
        Verdict::Allowed
    }

    /// A rule that needs a certificate; an error where no client can show one.
    fn needs_certificate(&self) -> Option<NeedsCertificate> {
        None
    }
}

/// The verdict of all gates on a caller.
pub(crate) fn judge(gates: &[Arc<dyn Gate>], caller: &Caller<'_>) -> Verdict {
    let mut waits = false;
    for gate in gates {
        match gate.judge(caller) {
            Verdict::Allowed => {}
            Verdict::NotYet => waits = true,
            denied @ Verdict::Denied(_) => return denied,
        }
    }
    if waits { Verdict::NotYet } else { Verdict::Allowed }
}

/// A peer before a gate, and what else a rule may ask about it.
pub(crate) struct Caller<'a> {
    pub peer: &'a Peer,
    ask: &'a dyn Fn() -> Option<String>,
    label: OnceCell<Option<String>>,
    shown: Shown<'a>,
}

/// The certificate that a caller has shown.
#[derive(Clone, Copy)]
enum Shown<'a> {
    NotYet,
    Nothing,
    Certificate(&'a Certificate),
}

impl<'a> Caller<'a> {
    /// `ask` finds out the label that a security module gave the peer. It is called at most once, by the first rule about
    /// labels.
    pub(crate) fn new(peer: &'a Peer, ask: &'a dyn Fn() -> Option<String>) -> Self {
        Self { peer, ask, label: OnceCell::new(), shown: Shown::NotYet }
    }

    /// The same caller after the handshake, with its certificate if it has shown one.
    #[must_use]
    pub(crate) fn with_certificate(self, certificate: Option<&'a Certificate>) -> Self {
        Self { shown: certificate.map_or(Shown::Nothing, Shown::Certificate), ..self }
    }

    /// The peer's label by SO_PEERSEC.
    pub(crate) fn label(&self) -> Option<&str> {
        self.label.get_or_init(self.ask).as_deref()
    }
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("peer", self.peer).finish_non_exhaustive()
    }
}

/// The right of a connection to be open. It is dropped when the connection ends, and gives its place back then.
#[derive(Default)]
pub(crate) struct Pass {
    #[allow(dead_code, reason = "held for its drop")]
    guard: Option<Box<dyn Any + Send>>,
    revocation: Option<Revocation>,
    machine: Option<Arc<str>>,
}

impl Pass {
    /// Holds `guard` for as long as the connection lives.
    pub(crate) fn holding(guard: impl Any + Send) -> Self {
        Self { guard: Some(Box::new(guard)), ..Self::default() }
    }

    /// A pass that ends when it is revoked.
    #[must_use]
    pub(crate) fn until(self, revocation: Revocation) -> Self {
        Self { revocation: Some(revocation), ..self }
    }

    /// A pass for a machine. The connection is charged to that machine.
    #[must_use]
    pub(crate) fn of_machine(self, machine: Arc<str>) -> Self {
        Self { machine: Some(machine), ..self }
    }

    /// The machine that the pass is for, if it is known.
    pub(crate) fn machine(&self) -> Option<&Arc<str>> {
        self.machine.as_ref()
    }

    /// The revocation that may end the pass before the connection.
    pub(crate) fn revocation(&self) -> Option<&Revocation> {
        self.revocation.as_ref()
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass")
    }
}

/// The rule that denies a connection, as the log shows it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{rule}")]
pub(crate) struct Denied {
    pub rule: String,
}

impl Denied {
    pub(crate) fn new(rule: impl Into<String>) -> Self {
        Self { rule: rule.into() }
    }
}
