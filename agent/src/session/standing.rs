//! Whether a client may stay: asked again whenever rules have changed.

use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use super::{
    Rules,
    revocable::{Over, When},
};
use crate::{
    access::{Caller, Changed, Denied, Verdict, judge},
    exports::Opening,
    tls::Certificate,
};

/// What a client has shown of itself so far: nothing while the lock is not set.
pub(super) type Shown = OnceLock<Option<Arc<Certificate>>>;

/// A thousand connections hear of a change at once. They are judged one after the other, so that the threads
/// that they are on serve others in between: to verify a certificate takes 0.1 ms.
static JUDGED: Semaphore = Semaphore::const_new(1);

/// A connection whose rules can change.
#[derive(Debug)]
pub(super) struct Standing {
    changed: Changed,
}

impl Standing {
    /// Of a new connection, before the gates are asked about it. `None` where no rule can change.
    pub(super) fn new(rules: &Rules) -> Option<Self> {
        Some(Self { changed: rules.changes.as_ref()?.watch() })
    }

    /// Waits until the rules deny a client that is negotiating; for ever where they cannot.
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

    /// Whether they deny a client now that has come to an export: they may have changed since it was asked
    /// for.
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

    /// Waits until they deny a client that has its export.
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

/// What the rules say of a client now.
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
