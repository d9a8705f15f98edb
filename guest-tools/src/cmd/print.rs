//! Output to standard output: text for people, JSON for programs. Every command prints through this
//! module, all at once at its end, so that a command that fails prints nothing.

use std::io::{self, Write};

use nbd::wire::is_plain;
use serde_json::Value;

use super::CommandError;

/// Prints text. It is no error if the reader, such as `head`, has closed the pipe.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CommandError::Print(error)),
        _ => Ok(()),
    }
}

/// Prints one JSON value and a line end.
pub(crate) fn print_json(value: &Value) -> Result<(), CommandError> {
    print(&format!("{}\n", escaped(&format!("{value:#}"))))
}

/// Quotes a string as JSON does.
pub(crate) fn quoted(text: &str) -> String {
    escaped(&Value::from(text).to_string())
}

/// Escapes JSON. Only strings contain characters that need it; outside of strings there are line
/// ends.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_plain(c) || c == '\n' {
            text.push(c);
        } else {
            let units = &mut [0; 2];
            text.extend(c.encode_utf16(units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_server_does_not_move_the_cursor() {
        let quoted = quoted("a\"\n\x1b[2J\x7f\u{9b}\u{202e}\u{e0041}\u{e9}");
        assert_eq!(quoted, "\"a\\\"\\n\\u001b[2J\\u007f\\u009b\\u202e\\udb40\\udc41\u{e9}\"");
    }
}
