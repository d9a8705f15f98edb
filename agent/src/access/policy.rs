//! Rules in order, and their verdict on a caller.

use thiserror::Error;

use super::{Caller, Denied, Match, Pass, Rule};

/// What a rule does with the callers that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Deny,
}

/// The first rule that names the caller decides. If no rule does, `last` decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    steps: Vec<Step>,
    last: Last,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    action: Action,
    rule: Rule,
    /// The rule as the log shows it.
    words: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Last {
    Allow,
    Deny(Denied),
}

/// The verdict of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Denied(Denied),
    /// The verdict depends on a certificate that the caller has not shown yet.
    NotYet,
}

impl Policy {
    /// A policy that allows callers which no rule names.
    pub(crate) fn open() -> Self {
        Self { steps: Vec::new(), last: Last::Allow }
    }

    /// A policy that denies callers which no rule names. `words` is the reason for the log.
    pub(crate) fn closed(words: impl Into<String>) -> Self {
        Self { steps: Vec::new(), last: Last::Deny(Denied::new(words)) }
    }

    /// Adds a rule after the others. `words` is the reason for the log when the rule denies.
    pub(crate) fn add(&mut self, action: Action, rule: Rule, words: String) {
        self.steps.push(Step { action, rule, words });
    }

    /// The first rule that cannot be decided without a certificate.
    pub(crate) fn needs_certificate(&self) -> Option<&Rule> {
        self.steps.iter().map(|step| &step.rule).find(|rule| rule.needs_certificate())
    }

    /// The decision before the first byte. A caller that a certificate may still allow is let in.
    pub(crate) fn admit(&self, caller: &Caller<'_>) -> Result<Pass, Denied> {
        match self.decide(caller) {
            Verdict::Denied(denied) => Err(denied),
            Verdict::Allowed | Verdict::NotYet => Ok(Pass::default()),
        }
    }

    /// The verdict. `NotYet` only where the certificate makes a difference.
    pub(crate) fn decide(&self, caller: &Caller<'_>) -> Verdict {
        let (mut may_allow, mut may_deny) = (false, false);
        let decided = self.steps.iter().find(|step| match step.rule.matches(caller) {
            Match::Yes => true,
            Match::No => false,
            Match::NotYet => {
                may_allow |= step.action == Action::Allow;
                may_deny |= step.action == Action::Deny;
                false
            }
        });
        let denied = match (decided, &self.last) {
            (Some(step), _) if step.action == Action::Deny => Some(Denied::new(&*step.words)),
            (None, Last::Deny(denied)) => Some(denied.clone()),
            _ => None,
        };
        match denied {
            Some(_) if may_allow => Verdict::NotYet,
            Some(denied) => Verdict::Denied(denied),
            None if may_deny => Verdict::NotYet,
            None => Verdict::Allowed,
        }
    }
}

/// A rule about certificates where no client can show one. Such a rule names no client, so it would let in clients that
/// it was meant to deny.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{given}: the rule {rule} is about the certificates of clients; add --tls-verify-peer (and TLS), or leave it out"
)]
pub(crate) struct NeedsCertificate {
    /// The option or layer that the rule was given to.
    given: &'static str,
    rule: String,
}

impl NeedsCertificate {
    /// The first rule of the policy that needs a certificate.
    pub(crate) fn of(policy: &Policy, given: &'static str) -> Option<Self> {
        let rule = policy.needs_certificate()?.to_string();
        Some(Self { given, rule })
    }
}

#[cfg(test)]
mod tests {
    use vsock_cid::Cid;

    use super::*;
    use crate::{access::parse_list, peer::Peer, tls::Certificate};

    /// `+rules` allows, `-rules` denies.
    fn policy(mut policy: Policy, lists: &[&str]) -> Policy {
        for list in lists {
            let (action, rules) = match list.strip_prefix('+') {
                Some(rules) => (Action::Allow, rules),
                None => (Action::Deny, &list[1..]),
            };
            for rule in parse_list(rules).unwrap() {
                let words = rule.to_string();
                policy.add(action, rule, words);
            }
        }
        policy
    }

    #[test]
    fn the_first_rule_that_names_the_caller_decides() {
        let guest = |cid| Peer::Vsock { cid: Cid::new(cid), port: 1, to: Cid::HOST };
        let (open, closed) = (Policy::open(), Policy::closed("nobody"));
        for (rules, peer, denied_by) in [
            (policy(open.clone(), &[]), guest(3), None),
            (policy(closed.clone(), &[]), guest(3), Some("nobody")),
            (policy(open.clone(), &["+vsock-cid:3", "-any"]), guest(3), None),
            (policy(open.clone(), &["+vsock-cid:3", "-any"]), guest(4), Some("any")),
            (policy(open.clone(), &["-vsock-cid:3"]), guest(4), None),
            (policy(open, &["-vsock-cid:3"]), guest(3), Some("vsock-cid:3")),
            (
                policy(closed.clone(), &["-vsock-cid:7", "+vsock-guest"]),
                guest(7),
                Some("vsock-cid:7"),
            ),
            (policy(closed.clone(), &["-vsock-cid:7", "+vsock-guest"]), guest(8), None),
            (policy(closed, &["-vsock-cid:7", "+vsock-guest"]), Peer::Pipe, Some("nobody")),
        ] {
            let verdict = denied_by.map_or(Verdict::Allowed, |by| Verdict::Denied(Denied::new(by)));
            assert_eq!(rules.decide(&Caller::new(&peer, &|| None)), verdict, "{rules:?} {peer}");
        }
    }

    #[test]
    fn the_verdict_waits_for_a_certificate_that_makes_a_difference() {
        let peer = Peer::Tcp("127.0.0.1:1".parse().unwrap());
        let shown = Certificate {
            dn: "CN=me,O=BigCo".into(),
            issuer_dn: "CN=BigCo".into(),
            chain: Vec::new(),
        };
        let open = Policy::open;
        let (yes, wait) = (|| Verdict::Allowed, || Verdict::NotYet);
        let no = |by: &str| Verdict::Denied(Denied::new(by));
        for (rules, before, without, with) in [
            (policy(open(), &["+dn:CN=me*", "-any"]), wait(), no("any"), yes()),
            (policy(open(), &["+dn:CN=you*", "-any"]), wait(), no("any"), no("any")),
            (policy(open(), &["+issuer-dn:CN=BigCo", "-any"]), wait(), no("any"), yes()),
            (policy(open(), &["+anyipv4,dn:CN=me*", "-any"]), yes(), yes(), yes()),
            (policy(open(), &["-dn:CN=me*"]), wait(), yes(), no("dn:CN=me*")),
            // The certificate makes no difference.
            (policy(open(), &["+dn:CN=me*"]), yes(), yes(), yes()),
            (
                policy(open(), &["-anyipv4", "+dn:CN=me*"]),
                no("anyipv4"),
                no("anyipv4"),
                no("anyipv4"),
            ),
            (policy(open(), &["-dn:CN=you*,any"]), no("any"), no("any"), no("any")),
        ] {
            let caller = || Caller::new(&peer, &|| None);
            assert_eq!(rules.decide(&caller()), before, "{rules:?}");
            assert_eq!(rules.decide(&caller().with_certificate(None)), without, "{rules:?}");
            assert_eq!(rules.decide(&caller().with_certificate(Some(&shown))), with, "{rules:?}");
        }
    }
}
