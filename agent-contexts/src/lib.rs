//! The agent's vendor namespace of metadata contexts, `x-agent:`, as both ends write it: the agent and
//! guest-tools. Each query is one of NBD_OPT_LIST_META_CONTEXT, and names a fact in full. Other servers have no
//! answer to these queries.
//!
//! | query | answer |
//! |---|---|
//! | [`IDENTITY`] | `x-agent:identity=HEX`: which disk the export is |
//! | [`INSTANCE`] | `x-agent:instance=HEX`: which run of the agent it is |
//! | [`FencingToken`] | the same text, once every older connection of that client has ended |
//!
//! A client whose connection broke sends the third query before it continues. Otherwise a change that the old
//! connection had requested, and that the agent still works on, could be applied last and undo a newer one. A client
//! that no longer knows which changes were acknowledged and not flushed uses the second query to find out whether the
//! agent may have lost them.
//!
//! The crate is text and no protocol: `nbd` knows of no vendor.

use std::fmt;

/// The query for the export's identity, which tells disks apart.
pub const IDENTITY: &str = "x-agent:identity";
/// The query for the agent's run, which differs after each start.
pub const INSTANCE: &str = "x-agent:instance";
/// The first part of a [`FencingToken`]'s query. The token that follows is a secret.
pub const INSTEAD: &str = "x-agent:instead=";

/// The answer to [`IDENTITY`] or [`INSTANCE`].
pub fn answer(query: &str, value: impl fmt::Display) -> String {
    format!("{query}={value}")
}

/// The value in an answer to `query`; `None` if the text answers another.
pub fn answer_to<'a>(query: &str, answer: &'a str) -> Option<&'a str> {
    answer.strip_prefix(query)?.strip_prefix('=')
}

/// A client's claim that its connection replaces all of its connections with a lower generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FencingToken {
    /// Random, made by the client, and known to no other client.
    pub token: u128,
    /// Grows each time the client has to connect again; its parallel connections have the same.
    pub generation: u64,
}

impl FencingToken {
    /// Parses a query. Only the exact text that `Display` writes is accepted.
    pub fn parse(query: &str) -> Option<Self> {
        let (token, generation) = query.strip_prefix(INSTEAD)?.split_once('.')?;
        let found = Self {
            token: u128::from_str_radix(token, 16).ok()?,
            generation: generation.parse().ok()?,
        };
        (found.to_string() == query).then_some(found)
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
    fn an_answer_begins_with_its_query() {
        assert_eq!(answer(IDENTITY, 12), "x-agent:identity=12");
        assert_eq!(answer_to(IDENTITY, "x-agent:identity=12"), Some("12"));
        assert_eq!(answer_to(INSTANCE, "x-agent:instance=34"), Some("34"));
        assert_eq!(answer_to(IDENTITY, "x-agent:identity"), None);
        assert_eq!(answer_to(INSTANCE, "x-agent:identity=12"), None);
    }

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
}
