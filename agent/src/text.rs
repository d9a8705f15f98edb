//! Makes texts of other programs and of peers safe for terminals and logs.
//!
//! The log, `main` and `command` print with these functions, so that foreign text never reaches a terminal unescaped.
//! Escaped are line ends, escape sequences (C0 and C1), and marks that are invisible or change the direction of
//! writing.

use std::fmt::{self, Write};

use serde_json::Value;

/// One line, with all characters escaped that are not printable. Quotes and backslashes stay, so text that is escaped
/// already stays as it is.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '"' | '\'' | '\\') {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
    out
}

/// A quoted text. Characters that are not printable, quotes and backslashes are escaped.
pub(crate) fn quoted(text: &str) -> impl fmt::Display {
    // For plain text, Rust's `Debug` form is the usual escapes.
    fmt::from_fn(move |f| write!(f, "{text:?}"))
}

/// As `escaped`, for a text of several lines. Line ends stay.
pub(crate) fn lines(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// A JSON string (RFC 8259, section 7). All characters that are not printable are escaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Json<'a>(pub &'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&json(&Value::from(self.0)))
    }
}

/// A whole value on one line. Its strings are escaped as in [`Json`].
pub(crate) fn json(value: &Value) -> String {
    // Printable characters stay as they are. Outside of strings there are no others.
    let text = value.to_string();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1 {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                write!(out, "\\u{unit:04x}").ok();
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOSTILE: &str =
        "a\x1b[2J\u{9b}1mb\u{202e}\u{200b}\r\nc\u{e9}\u{0}\u{7f}\u{fffd}\u{1f600}'\"\\";

    fn printed(text: &str) -> bool {
        text.chars().all(|c| !c.is_control() && !matches!(c, '\u{200b}' | '\u{202e}'))
    }

    #[test]
    fn only_printable_characters_reach_a_terminal() {
        let one = escaped(HOSTILE);
        assert!(printed(&one), "{one:?}");
        assert_eq!(escaped(&one), one, "once is enough");
        let two = lines(HOSTILE);
        assert_eq!(two.lines().count(), 2);
        assert!(two.lines().all(printed), "{two:?}");
        assert_eq!(escaped("a 'b' \"c\" \\d \u{e9}"), "a 'b' \"c\" \\d \u{e9}");
    }

    #[test]
    fn json_is_printable_and_keeps_its_value() {
        let value = json!({ HOSTILE: [HOSTILE, null, 1, true, 1.5], "": {} });
        let text = json(&value);
        assert!(printed(&text), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert_eq!(Json(HOSTILE).to_string(), json(&HOSTILE.into()));
        assert_eq!(json(&json!({ "a": ["b", 1] })), r#"{"a":["b",1]}"#);
    }
}
