//! Asks the gates which clients are admitted, and determines the tenant that a connection is charged to.

use std::sync::Arc;

use nbd::{Refusal, wire::ReplyCode};

use super::{end::End, rules::Rules};
use crate::{
    access::{Caller, Denied, Pass},
    exports::{Covers, Opening, Permit, authorize},
    peer::Peer,
    tenant::{Key, Tenant},
};

/// The decision of the gates.
pub(super) struct Admission {
    /// The tenant that the connection is charged to, whether admitted or not.
    pub(super) tenant: Arc<Tenant>,
    /// To be held as long as the stream is open.
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

/// A session that ended without an export.
#[derive(Debug)]
pub(super) struct Unopened {
    pub(super) end: End,
    pub(super) asked: Option<Asked>,
}

/// The gates during a negotiation, where rules about certificates are decided.
#[derive(Debug)]
pub(super) struct Gates<'a> {
    rules: &'a Rules,
    /// Set if the last answer was a denial.
    denied: Option<End>,
    /// The export that the last question was about.
    asked: Option<Asked>,
}

/// The export that a client asked for last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) export: String,
    /// Why the client did not get it.
    pub(super) refused: Option<String>,
}

impl<'a> Gates<'a> {
    pub(super) fn new(rules: &'a Rules) -> Self {
        Self { rules, denied: None, asked: None }
    }

    /// Asks the gates for a permit. Whether the export exists does not matter here, and the answer does not reveal it.
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
                // The client may be admitted once it shows a certificate.
                return Refusal::tls_required();
            }
            Refusal::policy("the rules of this server do not let you in")
        })
    }

    /// Records why the export that was asked for last cannot be opened.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        let why = match refusal.code() {
            // The text of this refusal repeats the name.
            ReplyCode::ERR_UNKNOWN => "there is no such export",
            _ => refusal.text(),
        };
        if let Some(asked) = &mut self.asked {
            asked.refused = Some(why.to_owned());
        }
    }

    /// The end of a session without an export: a denial, if that was the last answer to the client.
    pub(super) fn end(self, end: End) -> Unopened {
        Unopened { end: self.denied.unwrap_or(end), asked: self.asked }
    }
}
