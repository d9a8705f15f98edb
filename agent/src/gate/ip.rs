//! Allows and denies clients by rules: nbdkit-ip-filter(1), with repeated lists and ranges.

use std::sync::Arc;

use super::Entry;
use crate::{
    access::{Action, Caller, Denied, Gate, NeedsCertificate, Pass, Policy, Verdict, parse_list},
    params::{Key, ParamError, Params},
};

pub(super) const ENTRY: Entry = Entry {
    name: "ip",
    about: "Allow and deny clients; a client that no rule names may connect",
    keys: &[
        Key::many(
            "allow",
            "RULE[,RULE...]",
            "Clients that may connect, even if deny names them; rules as for --allow",
        ),
        Key::many("deny", "RULE[,RULE...]", "Clients that may not connect"),
    ],
    build: |params, stack, _| Ok(stack.with_first_gate(Arc::new(Ip(policy(params)?)))),
};

/// All rules of `allow`, then all rules of `deny`, in any order of the words.
fn policy(params: &Params<'_>) -> Result<Policy, ParamError> {
    let mut policy = Policy::open();
    for (key, action) in [("allow", Action::Allow), ("deny", Action::Deny)] {
        for list in params.values(key) {
            let rules = parse_list(list)
                .map_err(|error| params.wrong(key, list, "a list of rules", error))?;
            for rule in rules {
                let words = format!("{key}={rule}");
                policy.add(action, rule, words);
            }
        }
    }
    Ok(policy)
}

#[derive(Debug)]
struct Ip(Policy);

impl Gate for Ip {
    fn admit(&self, caller: &Caller<'_>) -> Result<Pass, Denied> {
        self.0.admit(caller)
    }

    fn judge(&self, caller: &Caller<'_>) -> Verdict {
        self.0.decide(caller)
    }

    fn needs_certificate(&self) -> Option<NeedsCertificate> {
        NeedsCertificate::of(&self.0, "filter ip")
    }
}

#[cfg(test)]
mod tests {
    use vsock_cid::Cid;

    use super::*;
    use crate::peer::Peer;

    /// The gate for these words, in this order.
    fn ip(words: &[(&str, &str)]) -> Result<Ip, String> {
        let words: Vec<_> =
            words.iter().map(|(key, value)| (Some((*key).into()), (*value).into())).collect();
        let params = Params::of_filter("ip", ENTRY.keys, &mut words.iter().collect()).unwrap();
        policy(&params).map(Ip).map_err(|error| error.to_string())
    }

    fn denied(gate: &Ip, cid: u32) -> Option<String> {
        let peer = Peer::Vsock { cid: Cid::new(cid), port: 1, to: Cid::HOST };
        gate.admit(&Caller::new(&peer, &|| None)).err().map(|denied| denied.rule)
    }

    #[test]
    fn allow_comes_before_deny_in_any_order() {
        let gate =
            ip(&[("deny", "all"), ("allow", "vsock-cid:3,vsock-cid:5-9"), ("allow", "uid:0")])
                .unwrap();
        let allowed: Vec<u32> = (0..12).filter(|cid| denied(&gate, *cid).is_none()).collect();
        assert_eq!(allowed, [3, 5, 6, 7, 8, 9]);
        assert_eq!(denied(&gate, 4).as_deref(), Some("deny=any"));
    }

    #[test]
    fn a_client_that_no_rule_names_is_let_in() {
        for words in [&[][..], &[("allow", "uid:0")], &[("deny", "vsock-cid:4"), ("deny", "")]] {
            assert_eq!(denied(&ip(words).unwrap(), 3), None, "{words:?}");
        }
    }

    #[test]
    fn a_wrong_rule_is_named_with_its_key() {
        let error = ip(&[("allow", "any"), ("deny", "vsock-cid:3,vsock-cid:x")]).unwrap_err();
        assert_eq!(error, "filter ip: deny=vsock-cid:3,vsock-cid:x is not a list of rules");
    }
}
