//! The syntax of an access file: each line is `allow` or `deny` and a list of rules.

use thiserror::Error;

use super::{Action, Rule, RuleError, parse_list};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counted from 1.
    pub number: usize,
    pub action: Action,
    pub rules: Vec<Rule>,
}

/// A line that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {number}")]
pub(crate) struct LineError {
    pub number: usize,
    pub source: RuleError,
}

/// Parses all lines. A line without `allow` or `deny` allows. A `#` at the start of a line or after a space starts a
/// comment.
///
/// # Errors
/// The first line that is wrong.
pub(crate) fn parse_file(text: &str) -> Result<Vec<Line>, LineError> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = without_comment(line).trim();
        if line.is_empty() {
            continue;
        }
        let (action, list) = match line.split_once(char::is_whitespace) {
            Some((word, list)) if word.eq_ignore_ascii_case("allow") => (Action::Allow, list),
            Some((word, list)) if word.eq_ignore_ascii_case("deny") => (Action::Deny, list),
            _ => (Action::Allow, line),
        };
        let rules = parse_list(list.trim()).map_err(|source| LineError { number, source })?;
        lines.push(Line { number, action, rules });
    }
    Ok(lines)
}

fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    let comment = line.char_indices().find(|&(_, letter)| {
        let starts = letter == '#' && before.is_whitespace();
        before = letter;
        starts
    });
    &line[..comment.map_or(line.len(), |(at, _)| at)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_allow_and_deny() {
        let text = "# who may have a disk\n\
                    \n\
                    deny vsock-cid:7\t# on holiday\n\
                    allow vsock-guest, uid:0\r\n\
                    \tALLOW   dn:CN=a #1,O=b\n\
                    any#not, 10.0.0.1";
        let error = parse_file(text).unwrap_err();
        assert_eq!((error.number, error.source), (6, RuleError::Unknown("any#not".into())));
        let lines = parse_file(text.rsplit_once('\n').unwrap().0).unwrap();
        let said: Vec<_> = lines
            .iter()
            .map(|line| {
                let rules: Vec<_> = line.rules.iter().map(ToString::to_string).collect();
                (line.number, line.action, rules.join(" "))
            })
            .collect();
        assert_eq!(
            said,
            [
                (3, Action::Deny, "vsock-cid:7".into()),
                (4, Action::Allow, "vsock-guest uid:0".into()),
                (5, Action::Allow, "dn:CN=a".into()),
            ]
        );
        assert_eq!(parse_file(" # nobody\n"), Ok(Vec::new()));
    }

    #[test]
    fn allow_and_deny_need_a_list_of_rules() {
        for text in ["allow", "deny", "permit any", "allow,any", "deny any any"] {
            assert_eq!(parse_file(text).map_err(|error| error.number), Err(1), "{text}");
        }
    }
}
