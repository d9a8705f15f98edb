//! Whether a client may stay. The question is asked again whenever rules have changed.

use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use super::{
    revocable::{Over, When},
    rules::Rules,
};
use crate::{
    access::{Caller, Changed, Denied, Verdict, judge},
    exports::Opening,
    tls::Certificate,
};

/// The certificate of a client, or that it has none. Not set while that is unknown.
pub(super) type Shown = OnceLock<Option<Arc<Certificate>>>;

/// A change of the rules may notify a thousand connections at once. They are judged one after the other, so that their
/// threads serve other connections in between: verifying a certificate takes 0.1 ms.
static JUDGED: Semaphore = Semaphore::const_new(1);

/// A connection whose rules can change.
#[derive(Debug)]
pub(super) struct Standing {
    changed: Changed,
}

impl Standing {
    /// For a new connection; called before the gates are asked about it. `None` if no rule can change.
    pub(super) fn new(rules: &Rules) -> Option<Self> {
        Some(Self { changed: rules.changes.as_ref()?.watch() })
    }

    /// Waits until the rules deny a client that is negotiating; forever if they cannot change.
    pub(super) async fn denied(
        standing: Option<&mut Self>,
        rules: &Rules,
        opening: Opening,
        shown: &Shown,
    ) -> Denied {
        let Some(standing) = standing else { return std::future::pending().await };
        loop {
            standing.changed.next().await;
            let _turn = JUDGED.acquire().await;
            if let Verdict::Denied(denied) = verdict(rules, &opening, shown.get()) {
                return denied;
            }
        }
    }

    /// Whether the rules now deny a client that has negotiated an export. They may have changed since it asked for it.
    pub(super) fn denies(
        standing: Option<&Self>,
        rules: &Rules,
        opening: &Opening,
    ) -> Option<Denied> {
        standing?;
        match verdict(rules, opening, Some(&opening.certificate)) {
            Verdict::Denied(denied) => Some(denied),
            Verdict::Allowed | Verdict::NotYet => None,
        }
    }

    /// Waits until the rules deny a client that has its export.
    pub(super) async fn over(mut self, rules: &Rules, opening: &Opening) -> Over {
        let shown = Shown::from(opening.certificate.clone());
        let denied = Self::denied(Some(&mut self), rules, opening.clone(), &shown).await;
        Over { why: why(&denied), when: When::AfterRequests }
    }
}

/// Why a session ends, for its line in the log.
fn why(denied: &Denied) -> Arc<str> {
    format!("the access rules were changed: {denied}").into()
}

/// The verdict of the current rules on a client.
fn verdict(rules: &Rules, opening: &Opening, shown: Option<&Option<Arc<Certificate>>>) -> Verdict {
    let label = || opening.label.clone();
    let caller = Caller::new(&opening.peer, &label);
    if let Some(Some(certificate)) = shown
        && let Some(refused) = rules.tls.refuses(certificate)
    {
        return Verdict::Denied(Denied::new(refused.to_string()));
    }
    match shown {
        Some(certificate) => judge(&rules.gates, &caller.with_certificate(certificate.as_deref())),
        None => judge(&rules.gates, &caller),
    }
}
