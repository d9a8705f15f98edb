//! Texts that QEMU sent: names, ids, reasons. A hostile QEMU may put escape sequences or a megabyte into them.

use std::fmt::{self, Write};

use serde::Deserialize;

/// Most characters of a text that are printed.
const SHOWN: usize = 200;
/// Most texts of a list that are printed.
const LISTED: usize = 8;

/// A text that QEMU sent. `Display` and `Debug` print at most 200 characters of it on one line, control characters
/// escaped. [`Text::as_str`] returns the text as it was received.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    /// The text as QEMU sent it, to compare or to send back. Do not print it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        for c in chars.by_ref().take(SHOWN) {
            match c {
                '"' | '\'' | '\\' => f.write_char(c)?,
                _ => write!(f, "{}", c.escape_debug())?,
            }
        }
        if chars.next().is_some() { f.write_str("...") } else { Ok(()) }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl<T: Into<String>> From<T> for Text {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// The first 8 items on one line, and how many more there are.
pub fn list<T: fmt::Display>(all: &[T]) -> String {
    let mut line = all.iter().take(LISTED).map(T::to_string).collect::<Vec<_>>().join(", ");
    if let Some(more) = all.len().checked_sub(LISTED).filter(|more| *more > 0) {
        // Writing to a String cannot fail.
        write!(line, " and {more} more").ok();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_printed_short_and_escaped_and_kept_whole() {
        let whole = "\x1b[31m\u{9b}\n\u{202e}x'\"\\".repeat(100_000);
        let text = Text::from(whole.clone());
        for printed in [text.to_string(), format!("{text:?}")] {
            assert!(printed.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{printed}");
            assert!(printed.contains("...") && printed.len() < 10 * SHOWN, "{printed}");
        }
        assert_eq!(text.as_str(), whole);
        assert_eq!(Text::from("vsock0 'a'").to_string(), "vsock0 'a'");
        assert_eq!(serde_json::from_str::<Text>("\"a\"").unwrap(), "a");
    }

    #[test]
    fn a_long_list_is_cut() {
        assert_eq!(list(&["a", "b"]), "a, b");
        assert_eq!(list(&[1; 10]), "1, 1, 1, 1, 1, 1, 1, 1 and 2 more");
    }
}
