//! Contexts of this project's own, in its vendor namespace `x-agent:` ("Metadata querying"). They are
//! answered to LIST_META_CONTEXT alone, and only to a query that names them whole: clients that do not
//! know them see nothing of them.
//!
//! | query | answer |
//! |---|---|
//! | `x-agent:identity` | `x-agent:identity=HEX`: which disk the export is |
//! | `x-agent:instance` | `x-agent:instance=HEX`: which run of the server it is |
//! | `x-agent:instead=TOKEN.GENERATION` | the same words, once no earlier connection of that client works any more |
//!
//! A client whose connection broke comes back by the second: what the old connection had asked for and
//! the server still works on would otherwise come after, and undo, what the new one asks for. A client
//! that has forgotten what it was told and did not flush asks whether the server may have lost it.

use std::fmt;

/// The query for an export's identity; in the answer `=` and the identity follow.
pub const IDENTITY: &str = "x-agent:identity";
/// The query for the server's run, another each time that it starts.
pub const INSTANCE: &str = "x-agent:instance";
/// How a query for a connection in place of others begins; the token behind it is a secret.
pub const INSTEAD: &str = "x-agent:instead=";

/// The connection stands in place of all with the same token and a lower generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FencingToken {
    /// Known to one client only, who has made it at random.
    pub token: u128,
    /// Grows each time the client has to connect anew; its connections at one time have the same.
    pub generation: u64,
}

impl FencingToken {
    /// The query, exactly as `Display` writes it.
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

/// Without the token: whoever knows it can end the client's connections.
impl fmt::Debug for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FencingToken").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// What an answer says to `IDENTITY` or `INSTANCE`.
pub fn answer_to<'a>(query: &str, answer: &'a str) -> Option<&'a str> {
    answer.strip_prefix(query)?.strip_prefix('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_one_form() {
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
        assert_eq!(answer_to(IDENTITY, "x-agent:identity=12"), Some("12"));
        assert_eq!(answer_to(IDENTITY, "x-agent:identity"), None);
        assert_eq!(answer_to(INSTANCE, "x-agent:identity=12"), None);
    }
}
