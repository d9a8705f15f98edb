//! Lists of rules, separated by commas.

use thiserror::Error;
use vsock_cid::GuestCid;

use super::{Numbers, Rule, RuleError};

/// Why a text is not a list of CIDs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ListError {
    #[error("the list is empty; write a list such as {0}")]
    Empty(&'static str),
    #[error(
        "'{0}' is no guest's CID, which is a number from 3 on, and no range such as 5-9; processes \
         of this machine are --allow vsock-local, what it is a guest of is --allow vsock-hypervisor"
    )]
    Cid(String),
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// Parses `RULE[,RULE…]`, as nbdkit writes it. A comma at the end is ignored, and the list may be empty.
///
/// Names and labels contain commas. A comma with a backslash before it belongs to the rule. So does a comma without one,
/// where the text after it can be nothing but a part of the rule: `dn:CN=me,O=BigCo,*` is one rule, and so is
/// `security:system_u:system_r:svirt_t:s0:c1,c2`.
///
/// # Errors
/// The first entry that is not a rule.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Rule>, RuleError> {
    let mut texts: Vec<String> = Vec::new();
    for part in parts(text) {
        match texts.last_mut() {
            Some(before) if continues(before, part) => {
                before.push(',');
                before.push_str(part);
            }
            _ => texts.push(part.to_owned()),
        }
    }
    texts.iter().map(|rule| rule.trim().parse()).collect()
}

/// Parses `3,5-9`: guests by their CIDs.
///
/// # Errors
/// If the list is empty or an entry is not the CID of a guest.
pub(crate) fn parse_cids(text: &str) -> Result<Vec<Rule>, ListError> {
    let guest = |part: &str| {
        let cids = Numbers::parse(part.trim()).filter(|cids| cids.first() >= GuestCid::MIN.get());
        cids.map(|cids| Rule::Guest(Some(cids))).ok_or_else(|| ListError::Cid(part.to_owned()))
    };
    match parts(text).map(guest).collect::<Result<Vec<_>, _>>()? {
        none if none.is_empty() => Err(ListError::Empty("3,5-9")),
        rules => Ok(rules),
    }
}

/// The parts between commas that have no backslash before them.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text).filter(|text| !text.is_empty());
    std::iter::from_fn(move || {
        let text = rest?;
        let mut escaped = false;
        let comma = text.bytes().position(|byte| {
            let separates = byte == b',' && !escaped;
            escaped = byte == b'\\' && !escaped;
            separates
        });
        rest = comma.map(|at| &text[at + 1..]).filter(|rest| !rest.is_empty());
        Some(&text[..comma.unwrap_or(text.len())])
    })
}

/// Whether `part`, which follows a comma, belongs to the rule before the comma.
fn continues(before: &str, part: &str) -> bool {
    let (word, part) = (before.trim_start().to_ascii_lowercase(), part.trim());
    if word.starts_with("dn:") || word.starts_with("issuer-dn:") {
        part.contains('=') || part.starts_with(['*', '?', '['])
    } else if word.starts_with("security:") {
        // A category of SELinux or a range of categories: c7, c0.c1023.
        part.split('.').all(|category| {
            category.strip_prefix('c').is_some_and(|number| {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            })
        })
    } else {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<String>, RuleError> {
        Ok(parse_list(text)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn commas_separate_rules_and_may_be_part_of_one() {
        for (text, rules) in [
            ("", &[][..]),
            ("any", &["any"]),
            ("any,", &["any"]),
            ("vsock-cid:3,vsock-cid:4", &["vsock-cid:3", "vsock-cid:4"]),
            (" vsock-cid:3 , ::1 ", &["vsock-cid:3", "::1"]),
            ("uid:0-9,pid:1,10.0.0.0/8", &["uid:0-9", "pid:1", "10.0.0.0/8"]),
            (r"dn:CN=a\,O=b,any", &[r"dn:CN=a\,O=b", "any"]),
            ("dn:CN=a,O=b, C=US,*,any", &["dn:CN=a,O=b, C=US,*", "any"]),
            ("dn:CN=a,issuer-dn:CN=b", &["dn:CN=a,issuer-dn:CN=b"]),
            ("security:u:r:t:s0:c1,c2.c9,uid:0", &[r"security:u:r:t:s0:c1\,c2.c9", "uid:0"]),
            (r"security:a\\,any", &[r"security:a\\", "any"]),
        ] {
            assert_eq!(list(text).unwrap(), rules, "{text}");
        }
        for text in [",", ",any", "any,,any", "any,,", " "] {
            assert_eq!(list(text), Err(RuleError::Empty), "{text}");
        }
        assert!(matches!(list("c1"), Err(RuleError::Unknown(_))));
        assert!(matches!(list("any,c1"), Err(RuleError::Unknown(_))));
    }

    #[test]
    fn cids_of_guests_are_listed() {
        let rules: Vec<String> =
            parse_cids("3,5-9, 7").unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["vsock-guest:3", "vsock-guest:5-9", "vsock-guest:7"]);
        for wrong in ["2", "0-9", "x", "3,,4", "3-", "9-3", ",", "4294967296"] {
            assert!(matches!(parse_cids(wrong), Err(ListError::Cid(_))), "{wrong}");
        }
        assert!(matches!(parse_cids(""), Err(ListError::Empty(_))));
    }
}
