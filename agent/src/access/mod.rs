//! Who may connect: decided for each connection before it is sent a byte, by rules and limits.
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

pub use self::{
    changes::{Changed, Changes},
    config::{AccessConfig, AccessConfigError, ConfiguredGates},
    file::{Line, LineError, parse_file},
    limit::Limit,
    list::{ListError, parse_cids, parse_list},
    number::{Numbers, parse_number},
    policy::{Action, NeedsCertificate, Policy, Verdict},
    revocation::{Revocation, Revoker},
    rule::{Match, Rule, RuleError},
};
use crate::{peer::Peer, tls::Certificate};

/// Says who may come in.
pub trait Gate: Send + Sync + fmt::Debug {
    /// Lets the caller in, or says which rule forbids it.
    fn admit(&self, caller: &Caller<'_>) -> Result<Pass, Denied>;

    /// What the rules say of a caller now. Asked whenever it wants to know or to have an export, and of all
    /// that are in when rules have changed (`Changes`). It takes no place.
    fn judge(&self, _: &Caller<'_>) -> Verdict {
        Verdict::Allowed
    }

    /// A rule that makes no sense where no client can show a certificate.
    fn needs_certificate(&self) -> Option<NeedsCertificate> {
        None
    }
}

/// What all gates say of a caller.
pub fn judge(gates: &[Arc<dyn Gate>], caller: &Caller<'_>) -> Verdict {
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

/// Who stands before a gate: the peer, and what more a rule may ask about it.
pub struct Caller<'a> {
    pub peer: &'a Peer,
    ask: &'a dyn Fn() -> Option<String>,
    label: OnceCell<Option<String>>,
    shown: Shown<'a>,
}

/// What a caller has shown of itself.
#[derive(Clone, Copy)]
enum Shown<'a> {
    NotYet,
    Nothing,
    Certificate(&'a Certificate),
}

impl<'a> Caller<'a> {
    /// `ask` finds out the label that a security module gave the peer, if there is one. It is
    /// called when the first rule wants to know, and not again.
    pub fn new(peer: &'a Peer, ask: &'a dyn Fn() -> Option<String>) -> Self {
        Self { peer, ask, label: OnceCell::new(), shown: Shown::NotYet }
    }

    /// The same when it is known what certificate it has shown, if any.
    #[must_use]
    pub fn with_certificate(self, certificate: Option<&'a Certificate>) -> Self {
        Self { shown: certificate.map_or(Shown::Nothing, Shown::Certificate), ..self }
    }

    /// What SO_PEERSEC says of the peer.
    pub fn label(&self) -> Option<&str> {
        self.label.get_or_init(self.ask).as_deref()
    }
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("peer", self.peer).finish_non_exhaustive()
    }
}

/// A place behind a gate, given back when it is dropped: when the connection is over.
#[derive(Default)]
pub struct Pass {
    #[allow(dead_code, reason = "held for its drop")]
    guard: Option<Box<dyn Any + Send>>,
    revocation: Option<Revocation>,
    machine: Option<Arc<str>>,
}

impl Pass {
    /// Holds `guard` for as long as the connection lives.
    pub fn holding(guard: impl Any + Send) -> Self {
        Self { guard: Some(Box::new(guard)), ..Self::default() }
    }

    /// Good until it is revoked.
    #[must_use]
    pub fn until(self, revocation: Revocation) -> Self {
        Self { revocation: Some(revocation), ..self }
    }

    /// Says which machine it lets in: the connection is charged to that machine.
    #[must_use]
    pub fn of_machine(self, machine: Arc<str>) -> Self {
        Self { machine: Some(machine), ..self }
    }

    /// The machine that it lets in, where one is known.
    pub fn machine(&self) -> Option<&Arc<str>> {
        self.machine.as_ref()
    }

    /// Its end before the connection's, if it can have one.
    pub fn revocation(&self) -> Option<&Revocation> {
        self.revocation.as_ref()
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass")
    }
}

/// The rule that forbids a connection, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{rule}")]
pub struct Denied {
    pub rule: String,
}

impl Denied {
    pub fn new(rule: impl Into<String>) -> Self {
        Self { rule: rule.into() }
    }
}
