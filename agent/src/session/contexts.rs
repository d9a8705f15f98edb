//! The metadata contexts that the agent offers: `base:allocation`, and facts in its vendor namespace
//! `x-agent:`. LIST_META_CONTEXT answers a fact only to the query that names it in full, so other clients
//! see nothing of them.
//!
//! | query | answer |
//! |---|---|
//! | `x-agent:identity` | `x-agent:identity=HEX`: which disk the export is |
//! | `x-agent:instance` | `x-agent:instance=HEX`: which run of the agent it is |
//! | `x-agent:instead=TOKEN.GENERATION` | the same text, once every older connection of that client has ended |
//!
//! A client whose connection broke sends the third query before it continues. Otherwise a change that the old
//! connection had requested, and that the agent still works on, could be applied last and undo a newer one. A client
//! that no longer knows which changes were acknowledged and not flushed uses the second query to find out whether the
//! agent may have lost them.
//!
//! The other end is `agent_contexts` in guest-tools; a test here and one there pin the same text.

use std::{fmt, sync::LazyLock};

use nbd::{negotiate::Context, wire::BASE_ALLOCATION};

use disk::{DiskInfo, Identity};

/// The query for the export's identity. The answer continues with `=` and the identity.
const IDENTITY: &str = "x-agent:identity";
/// The query for the agent's run. The identity of the run changes with each start.
const INSTANCE: &str = "x-agent:instance";
/// The first part of a client's query to replace its older connections. The token that follows is a secret.
pub(super) const INSTEAD: &str = "x-agent:instead=";

/// The identity of this run, the answer to `INSTANCE`.
static THIS_RUN: LazyLock<Identity> = LazyLock::new(Identity::fresh);

/// The contexts that an export of this disk offers to every client.
pub(super) fn offered(info: &DiskInfo) -> Vec<Context> {
    let allocation = info.can_extents.then(|| Context::with_extents(BASE_ALLOCATION));
    let fact = |query: &str, answer: Identity| Context::fact(query, format!("{query}={answer}"));
    let identity = info.identity.map(|identity| fact(IDENTITY, identity));
    let instance = fact(INSTANCE, *THIS_RUN);
    allocation.into_iter().chain(identity).chain([instance]).collect()
}

/// A client's claim that its connection replaces all of its connections with a lower generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct FencingToken {
    /// Random, made by the client, and known to no other client.
    pub(super) token: u128,
    /// Grows each time the client has to connect again; its parallel connections have the same.
    pub(super) generation: u64,
}

impl FencingToken {
    /// Parses a query. Only the exact text that `Display` writes is accepted.
    pub(super) fn parse(query: &str) -> Option<Self> {
        let (token, generation) = query.strip_prefix(INSTEAD)?.split_once('.')?;
        let found = Self {
            token: u128::from_str_radix(token, 16).ok()?,
            generation: generation.parse().ok()?,
        };
        (found.to_string() == query).then_some(found)
    }

    /// The answer to the client's query: the older connections have ended.
    pub(super) fn granted(self) -> Context {
        Context::fact(self.to_string(), self.to_string())
    }
}

/// The query, and the answer.
impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{INSTEAD}{:032x}.{}", self.token, self.generation)
    }
}

/// Omits the token: with it a reader could end the client's connections.
impl fmt::Debug for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FencingToken").field("generation", &self.generation).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fencing_query_has_one_form() {
        let fencing = FencingToken { token: 0xabc, generation: 7 };
        let text = "x-agent:instead=00000000000000000000000000000abc.7";
        assert_eq!(fencing.to_string(), text);
        assert_eq!(FencingToken::parse(text), Some(fencing));
        assert!(!format!("{fencing:?}").contains("abc"));
        for text in [
            "",
            "x-agent:",
            "x-agent:instead=",
            "x-agent:instead=abc.7",
            "x-agent:instead=00000000000000000000000000000ABC.7",
            "x-agent:instead=00000000000000000000000000000abc.07",
            "x-agent:instead=00000000000000000000000000000abc.+7",
            "x-agent:instead=00000000000000000000000000000abc.",
            "x-agent:instead=00000000000000000000000000000abc",
            "x-agent:instead=00000000000000000000000000000abc.18446744073709551616",
        ] {
            assert_eq!(FencingToken::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_disk_without_extents_or_identity_offers_only_the_run() {
        let plain = DiskInfo::plain(1 << 20, None);
        let bare = DiskInfo { can_extents: false, ..plain.clone() };
        let instance = Context::fact("x-agent:instance", format!("x-agent:instance={}", *THIS_RUN));
        assert_eq!(offered(&bare), std::slice::from_ref(&instance));
        let identity = Identity::fresh();
        let all = DiskInfo { can_extents: true, identity: Some(identity), ..plain };
        let named = Context::fact("x-agent:identity", format!("x-agent:identity={identity}"));
        assert_eq!(offered(&all), [Context::with_extents("base:allocation"), named, instance]);
    }
}
