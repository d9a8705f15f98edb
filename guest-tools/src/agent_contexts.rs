//! The facts that the agent reports in its vendor namespace `x-agent:`, and how a client asks for them:
//! each fact is a query of NBD_OPT_LIST_META_CONTEXT. Other servers have no answer to these queries.
//!
//! The other end is `session::contexts` in the agent, where a table explains the queries. A test there and
//! one here pin the same text.

use std::fmt;

/// The query for the export's identity, which tells disks apart.
pub(crate) const IDENTITY: &str = "x-agent:identity";
/// The query for the agent's run, which differs after each start.
pub(crate) const INSTANCE: &str = "x-agent:instance";

/// The claim that a connection replaces all connections with the same token and a lower generation. The
/// agent answers the query with the same text, once those have ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FencingToken {
    /// Random, made by this client, and known to no other client.
    pub(crate) token: u128,
    /// Incremented each time this client has to reconnect. Its parallel connections share the number.
    pub(crate) generation: u64,
}

/// The text of the query, and of the answer.
impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x-agent:instead={:032x}.{}", self.token, self.generation)
    }
}

/// Omits the token, because a reader of the token could end this client's connections.
impl fmt::Debug for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FencingToken").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// The value in an answer to `IDENTITY` or `INSTANCE`, if it is one.
pub(crate) fn answer_to<'a>(query: &str, answer: &'a str) -> Option<&'a str> {
    answer.strip_prefix(query)?.strip_prefix('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_answers_have_the_agents_form() {
        let fencing = FencingToken { token: 0xabc, generation: 7 };
        assert_eq!(fencing.to_string(), "x-agent:instead=00000000000000000000000000000abc.7");
        assert!(!format!("{fencing:?}").contains("abc"));
        assert_eq!(answer_to(IDENTITY, "x-agent:identity=12"), Some("12"));
        assert_eq!(answer_to(INSTANCE, "x-agent:instance=34"), Some("34"));
        assert_eq!(answer_to(IDENTITY, "x-agent:identity"), None);
        assert_eq!(answer_to(INSTANCE, "x-agent:identity=12"), None);
    }
}
