//! At the gates: who is let in, and what the log says of those who are not.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nbd::Refusal;

use super::{End, Rules, stream::Stream};
use crate::{
    access::{Caller, Denied, Pass},
    exports::Opening,
    peer::Peer,
};

/// Most lines about refusals in one period: a peer that may not come in can still come again and
/// again, and must not fill our disk with log.
const LINES: u32 = 1000;
const PERIOD: Duration = Duration::from_secs(10);

/// Asks every gate; all passes must be held as long as the stream is open.
pub(super) fn admit(
    rules: &Rules,
    peer: &Peer,
    label: &dyn Fn() -> Option<String>,
) -> Result<Vec<Pass>, Denied> {
    let caller = Caller::new(peer, label);
    rules.gates.iter().map(|gate| gate.admit(&caller)).collect()
}

/// The gates during a negotiation, where rules about certificates are decided.
#[derive(Debug)]
pub(super) struct Gates<'a> {
    rules: &'a Rules,
    /// The last answer, if it was no.
    denied: Option<End>,
}

impl<'a> Gates<'a> {
    pub(super) fn new(rules: &'a Rules) -> Self {
        Self { rules, denied: None }
    }

    /// Asks whether the client may have `export`, or see the list of them. Whether there is such an
    /// export does not matter here, and does not show.
    pub(super) fn confirm(
        &mut self,
        stream: &Stream,
        opening: &Opening,
        export: Option<&str>,
    ) -> Result<(), Refusal> {
        let label = || stream.wire().label();
        let caller = Caller::new(&opening.peer, &label);
        let caller = caller.with_certificate(opening.certificate.as_deref());
        let answer = self.rules.gates.iter().try_for_each(|gate| gate.confirm(&caller));
        self.denied = None;
        answer.map_err(|denied| {
            self.denied = Some(End::Denied { denied, export: export.map(str::to_owned) });
            if !opening.tls && self.rules.tls.acceptor().is_some() {
                // Who shows a certificate may be let in.
                return Refusal::tls_required();
            }
            Refusal::policy("the rules of this server do not let you in")
        })
    }

    /// How a session ended that came to no export: denied, if that was the last thing it heard.
    pub(super) fn end(self, end: End) -> End {
        self.denied.unwrap_or(end)
    }
}

/// Writes one line for each connection that is refused, and where there are too many of them, how
/// many they were.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Option<Period>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Period {
    since: Instant,
    /// Connections refused in it.
    refused: u32,
}

/// What the log gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    Line,
    /// Nothing from now on until the period is over, after this time.
    Later(Duration),
    Nothing,
}

impl Refusals {
    /// Says that `peer` was refused by `denied`. `export` is what it asked for, if it came to that.
    pub(super) fn say(self: &Arc<Self>, peer: &Peer, export: Option<&str>, denied: &Denied) {
        match self.count(Instant::now()) {
            Say::Line => {
                let export = export.unwrap_or("-");
                tracing::warn!(%peer, export, rule = %denied, "refused");
            }
            Say::Later(rest) => {
                tracing::warn!("{LINES} refusals in {PERIOD:?}: more are counted, not logged");
                let refusals = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(rest).await;
                    tracing::warn!("{} more connections were refused", refusals.settle());
                });
            }
            Say::Nothing => {}
        }
    }

    fn count(&self, now: Instant) -> Say {
        let mut period = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is over and has something unsaid waits for `settle`.
        let current = period.filter(|it| now - it.since < PERIOD || it.refused > LINES);
        let mut current = current.unwrap_or(Period { since: now, refused: 0 });
        current.refused = current.refused.saturating_add(1);
        *period = Some(current);
        match current.refused {
            ..=LINES => Say::Line,
            refused if refused == LINES + 1 => {
                Say::Later(PERIOD.saturating_sub(now - current.since))
            }
            _ => Say::Nothing,
        }
    }

    /// Ends a period; how many refusals had no line.
    fn settle(&self) -> u32 {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        ended.map_or(0, |period| period.refused.saturating_sub(LINES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_logged_line_by_line() {
        let refusals = Refusals::default();
        let start = Instant::now();
        for _ in 0..LINES {
            assert_eq!(refusals.count(start), Say::Line);
        }
        let soon = start + Duration::from_secs(3);
        assert_eq!(refusals.count(soon), Say::Later(Duration::from_secs(7)));
        // Late, and still before it was settled.
        for _ in 0..5 {
            assert_eq!(refusals.count(start + 2 * PERIOD), Say::Nothing);
        }
        assert_eq!(refusals.settle(), 6);
        assert_eq!(refusals.count(start + 2 * PERIOD), Say::Line);
        for _ in 1..LINES {
            refusals.count(start + 2 * PERIOD);
        }
        assert_eq!(refusals.count(start + 3 * PERIOD), Say::Line, "a new period has lines again");
    }
}
