//! At the gates: who is let in, and whom the connection is charged to.

use std::sync::Arc;

use nbd::{Refusal, wire::ReplyCode};

use super::{End, Rules};
use crate::{
    access::{Caller, Denied, Pass},
    exports::{Covers, Opening, Permit, authorize},
    peer::Peer,
    tenant::{Key, Tenant},
};

/// What the gates said.
pub(super) struct Admission {
    /// Whom the connection is charged to, let in or not.
    pub(super) tenant: Arc<Tenant>,
    /// All of them must be held as long as the stream is open.
    pub(super) passes: Result<Vec<Pass>, Denied>,
}

/// Asks every gate.
pub(super) fn admit(rules: &Rules, peer: &Peer, label: Option<&str>) -> Admission {
    let label = || label.map(str::to_owned);
    let caller = Caller::new(peer, &label);
    let mut passes = Vec::with_capacity(rules.gates.len());
    let denied = rules.gates.iter().find_map(|gate| match gate.admit(&caller) {
        Ok(pass) => {
            passes.push(pass);
            None
        }
        Err(denied) => Some(denied),
    });
    let machine = passes.iter().find_map(Pass::machine);
    let tenant = rules.tenants.get(Key::of(peer, machine));
    Admission { tenant, passes: denied.map_or(Ok(passes), Err) }
}

/// A session that came to no export.
#[derive(Debug)]
pub(super) struct Unopened {
    pub(super) end: End,
    pub(super) asked: Option<Asked>,
}

/// The gates during a negotiation, where rules about certificates are decided.
#[derive(Debug)]
pub(super) struct Gates<'a> {
    rules: &'a Rules,
    /// The last answer, if it was no.
    denied: Option<End>,
    /// What it was about.
    asked: Option<Asked>,
}

/// The export that a client asked for last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) export: String,
    /// Why it was not given.
    pub(super) refused: Option<String>,
}

impl<'a> Gates<'a> {
    pub(super) fn new(rules: &'a Rules) -> Self {
        Self { rules, denied: None, asked: None }
    }

    /// Asks whether the client may have what it asks for. Whether there is such an
    /// export does not matter here, and does not show.
    pub(super) fn authorize(
        &mut self,
        opening: &Opening,
        covers: Covers,
    ) -> Result<Permit, Refusal> {
        let export = match &covers {
            Covers::List => None,
            Covers::Export(name) => Some(name.clone()),
        };
        if let Some(export) = export.clone() {
            self.asked = Some(Asked { export, refused: None });
        }
        let permit = authorize(&self.rules.gates, opening, covers);
        self.denied = None;
        permit.map_err(|denied| {
            self.denied = Some(End::Denied { denied, export });
            if !opening.tls && self.rules.tls.is_on() {
                // Who shows a certificate may be let in.
                return Refusal::tls_required();
            }
            Refusal::policy("the rules of this server do not let you in")
        })
    }

    /// The export that was asked for last cannot be had.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        let why = match refusal.code() {
            // Its text has the name once more.
            ReplyCode::ERR_UNKNOWN => "there is no such export",
            _ => refusal.text(),
        };
        if let Some(asked) = &mut self.asked {
            asked.refused = Some(why.to_owned());
        }
    }

    /// How a session ended that came to no export: denied, if that was the last thing it heard.
    pub(super) fn end(self, end: End) -> Unopened {
        Unopened { end: self.denied.unwrap_or(end), asked: self.asked }
    }
}
