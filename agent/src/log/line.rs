//! One line: the contents of an event and its output forms. Each form escapes characters that would end a line or move
//! a terminal's cursor, whatever their origin. Long texts are cut.

use std::fmt::{self, Debug, Write};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::clock::Stamp;
use crate::text::{Json, escaped, quoted};

/// The form of a line at one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Human { colours: bool },
    Json,
    Syslog,
    Journal,
}

impl Format {
    pub(super) fn text(self, line: &Line) -> String {
        match self {
            Self::Human { colours } => line.human(colours),
            Self::Json => line.json(),
            Self::Syslog => line.syslog(),
            Self::Journal => line.journal(),
        }
    }
}

/// The identifier of the agent's lines in syslog and the journal.
const IDENTIFIER: &str = "agent";
/// LOG_DAEMON of syslog(3), shifted into its place.
const DAEMON: u8 = 3 << 3;

/// Maximum length in bytes of a text value, such as an export's name, as printed. A name of 4 KiB would be 24 KiB with
/// its control characters escaped.
const MOST_TEXT: usize = 256;
/// Maximum length in bytes of any other value: the reason why a session ended, an error.
const MOST_VALUE: usize = 512;
/// Maximum length of the message in bytes. It may contain two paths and an error.
const MOST_MESSAGE: usize = 2048;

/// The contents of a line.
#[derive(Debug)]
pub(super) struct Line {
    at: Stamp,
    pub(super) level: Level,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

/// A value as it was logged, not escaped yet.
#[derive(Debug)]
enum Value {
    /// Text data, such as an export's name. It is quoted where it stands among words.
    Text(String),
    /// Text whose beginning and end are clear without quotes.
    Plain(String),
    Number(String),
    Bool(bool),
}

impl Line {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let level = *event.metadata().level();
        let mut line = Self { at: Stamp::now(), level, message: String::new(), fields: Vec::new() };
        event.record(&mut line);
        line
    }

    /// A line that the log itself writes.
    pub(super) fn new(level: Level, message: &str, numbers: &[(&'static str, u64)]) -> Self {
        let fields = numbers.iter().map(|(name, n)| (*name, Value::Number(n.to_string())));
        Self { at: Stamp::now(), level, message: message.into(), fields: fields.collect() }
    }

    /// Adds a text value.
    pub(super) fn with(mut self, name: &'static str, text: &str) -> Self {
        self.fields.push((name, Value::Text(cut(text, MOST_TEXT))));
        self
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| *field == name)
    }

    /// The message without the fields.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// `MESSAGE KEY=VALUE...`
    fn text(&self) -> String {
        let mut out = escaped(&self.message);
        for (name, value) in &self.fields {
            let space = if out.is_empty() { "" } else { " " };
            // Writing to a String cannot fail.
            write!(out, "{space}{name}={value}").ok();
        }
        out
    }

    /// For people: with time and level, in colours if the terminal has them.
    fn human(&self, colours: bool) -> String {
        let (level, text) = (self.level, self.text());
        if !colours {
            return format!("{} {level:>5} {text}\n", self.at);
        }
        let colour = match level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            Level::DEBUG => 34,
            Level::TRACE => 35,
        };
        format!("\x1b[2m{}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m {text}\n", self.at)
    }

    /// A JSON object: `timestamp`, `level`, `message`, and the fields.
    fn json(&self) -> String {
        let (at, level, message) = (self.at, self.level, Json(&self.message));
        let mut out = format!(r#"{{"timestamp":"{at}","level":"{level}","message":{message}"#);
        for (name, value) in &self.fields {
            write!(out, ",{}:", Json(name)).ok();
            match value {
                Value::Text(text) | Value::Plain(text) => write!(out, "{}", Json(text)),
                Value::Number(number) => out.write_str(number),
                Value::Bool(is) => write!(out, "{is}"),
            }
            .ok();
        }
        out.push_str("}\n");
        out
    }

    /// A datagram of syslog(3). It has no time: syslogd knows the time, and accepts no other from its socket.
    fn syslog(&self) -> String {
        let (priority, id) = (DAEMON | self.priority(), std::process::id());
        format!("<{priority}>{IDENTIFIER}[{id}]: {}", self.text())
    }

    /// A datagram of the journal's own protocol (systemd.journal-fields(7)): the line for people, and each field by
    /// itself. No value contains a line end, so the form with lengths is not needed.
    fn journal(&self) -> String {
        let (priority, text) = (self.priority(), self.text());
        let mut out =
            format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE={text}\n");
        for (name, value) in &self.fields {
            let name = name.to_ascii_uppercase().replace('.', "_");
            match value {
                Value::Text(text) => writeln!(out, "{name}={}", escaped(text)),
                other => writeln!(out, "{name}={other}"),
            }
            .ok();
        }
        out
    }

    /// The priority in the numbers of syslog(3).
    fn priority(&self) -> u8 {
        match self.level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        }
    }

    fn add(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = match value {
                Value::Text(text) | Value::Plain(text) | Value::Number(text) => text,
                Value::Bool(is) => is.to_string(),
            };
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let most = if field.name() == "message" { MOST_MESSAGE } else { MOST_VALUE };
        self.add(field, Value::Plain(cut(&format!("{value:?}"), most)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(cut(value, MOST_TEXT)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Number(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Number(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bool(value));
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{}", quoted(text)),
            Self::Plain(text) => f.write_str(&escaped(text)),
            Self::Number(number) => f.write_str(number),
            Self::Bool(is) => write!(f, "{is}"),
        }
    }
}

/// Cuts `text` to at most `most` printed bytes, and marks the cut.
fn cut(text: &str, most: usize) -> String {
    let mut printed = 0;
    let end = text.char_indices().find(|(_, c)| {
        printed += printed_len(*c);
        printed > most
    });
    match end {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text.to_owned(),
    }
}

fn printed_len(c: char) -> usize {
    let escaped = c.escape_debug();
    // An escape is ASCII.
    if escaped.len() == 1 { c.len_utf8() } else { escaped.len() }
}
