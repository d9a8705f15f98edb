//! Texts of other programs and of peers, made fit for a terminal and for a log.
//!
//! The log, `main` and `command` print by this: nothing that anybody else chose reaches a terminal as it
//! came. What is not to be printed are line ends, escape sequences (C0 and C1), and marks that turn the
//! direction of writing or cannot be seen.

use std::fmt::{self, Write};

use serde_json::Value;

/// One line: all that is not to be printed is escaped. Quotes and backslashes stay: what is escaped
/// already is not again.
pub fn escaped(text: &str) -> String {
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

/// A text that is data, in quotes: what is not to be printed, quotes and backslashes are escaped.
pub fn quoted(text: &str) -> impl fmt::Display {
    // Of a text alone this is no form of Rust's, but the escapes that everybody knows.
    fmt::from_fn(move |f| write!(f, "{text:?}"))
}

/// The same for a text of several lines: their ends stay.
pub fn lines(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// A string of JSON (RFC 8259, section 7), in which only what is printed stands for itself.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a>(pub &'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&json(&Value::from(self.0)))
    }
}

/// A whole value on one line, its strings as [`Json`] has them.
pub fn json(value: &Value) -> String {
    // What is printed escapes itself, and outside of strings there is nothing else.
    let text = value.to_string();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1 {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // A String takes all.
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
    fn nothing_in_a_text_reaches_a_terminal_but_what_is_printed() {
        let one = escaped(HOSTILE);
        assert!(printed(&one), "{one:?}");
        assert_eq!(escaped(&one), one, "once is enough");
        let two = lines(HOSTILE);
        assert_eq!(two.lines().count(), 2);
        assert!(two.lines().all(printed), "{two:?}");
        assert_eq!(escaped("a 'b' \"c\" \\d \u{e9}"), "a 'b' \"c\" \\d \u{e9}");
    }

    #[test]
    fn json_says_the_same_and_is_printed() {
        let value = json!({ HOSTILE: [HOSTILE, null, 1, true, 1.5], "": {} });
        let text = json(&value);
        assert!(printed(&text), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert_eq!(Json(HOSTILE).to_string(), json(&HOSTILE.into()));
        assert_eq!(json(&json!({ "a": ["b", 1] })), r#"{"a":["b",1]}"#);
    }
}
