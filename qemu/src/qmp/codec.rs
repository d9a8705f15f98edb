//! Bytes to lines, and a line to what it says. Pure: no socket, no clock.
//!
//! `client` feeds it what QEMU sends. Whatever that is, it costs at most a line's memory, and is an
//! error or a message, never a panic.

#[cfg(test)]
mod tests;

use std::{borrow::Cow, mem};

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::text::Text;

/// Longest line, bytes without its end. QEMU's longest answers (all types, all properties) are a
/// quarter of it.
pub const LINE_MAX: usize = 1 << 20;
/// So much of a line that makes no sense is shown.
const SHOWN: usize = 80;

/// A line that has no end where one must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a line of more than {LINE_MAX} bytes was sent, which no QEMU does")]
pub struct TooLong;

/// What was received and is not yet taken as a line.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Before this the bytes are taken.
    start: usize,
    /// Between `start` and this there is no end of a line.
    searched: usize,
}

impl Lines {
    /// Appends what was received. Whoever takes lines after each call holds no more than a line and
    /// what was appended last.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..mem::take(&mut self.start));
        self.searched = self.searched.min(self.bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line without its end; empty ones are passed over.
    pub fn take(&mut self) -> Result<Option<&[u8]>, TooLong> {
        loop {
            let searched = self.start + self.searched;
            let rest = self.bytes.get(searched..).unwrap_or_default();
            let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
                self.searched += rest.len();
                return if self.searched > LINE_MAX { Err(TooLong) } else { Ok(None) };
            };
            let from = mem::replace(&mut self.start, searched + end + 1);
            self.searched = 0;
            let line = &self.bytes[from..searched + end];
            if line.len() > LINE_MAX {
                return Err(TooLong);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(&self.bytes[from..searched + end]));
            }
        }
    }

    /// Bytes of a line that has begun.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.start
    }
}

/// Something that happened in QEMU.
#[derive(Debug, Clone)]
pub struct Event {
    /// QEMU's name of it, such as `SHUTDOWN`.
    pub name: Text,
    /// Its object, as it was sent.
    pub data: Option<Box<RawValue>>,
    /// The host's clock when it happened, if QEMU could tell.
    pub timestamp: Option<Timestamp>,
}

/// Since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Timestamp {
    /// -1: the host has no clock.
    pub seconds: i64,
    pub microseconds: i64,
}

impl Event {
    /// The data as a type of `qapi`. `None`: it is not of that form, as a newer QEMU's may not be.
    pub fn parse<D: for<'a> Deserialize<'a>>(&self) -> Option<D> {
        serde_json::from_str(self.data.as_ref().map_or("{}", |data| data.get())).ok()
    }
}

/// QEMU's answer to a command that it does not do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Error)]
#[error("QEMU refuses: {desc}")]
pub struct Refusal {
    /// `GenericError`, `CommandNotFound`, `DeviceNotFound` and a few more.
    pub class: Text,
    /// For people.
    pub desc: Text,
}

/// A line's meaning.
#[derive(Debug)]
pub enum Message<'a> {
    /// The first line of a connection: version and capabilities.
    Greeting(&'a RawValue),
    Event(Event),
    /// The answer to the command that had this id. `None`: QEMU did not even understand the id.
    Reply {
        id: Option<&'a RawValue>,
        result: Result<&'a RawValue, Refusal>,
    },
}

/// A line that is no message.
#[derive(Debug, Error)]
#[error("it sent '{shown}', which is no message of QMP")]
pub struct MessageError {
    /// The line's beginning.
    pub shown: String,
    /// `None`: it is JSON, with what no message has, or has together.
    pub source: Option<JsonError>,
}

/// JSON of another form than was expected. What it says may quote what QEMU sent.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct JsonError(Text);

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string().into())
    }
}

/// What a line says.
pub fn decode(line: &[u8]) -> Result<Message<'_>, MessageError> {
    /// Everything that a message can have.
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow, rename = "QMP")]
        greeting: Option<&'a RawValue>,
        #[serde(borrow)]
        event: Option<Cow<'a, str>>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
        timestamp: Option<Timestamp>,
        #[serde(borrow, rename = "return")]
        returned: Option<&'a RawValue>,
        error: Option<Refusal>,
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    let no_message = |source| MessageError { shown: shown(line), source };
    // An array would be taken for a structure's fields.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err(no_message(None));
    }
    let envelope: Envelope<'_> =
        serde_json::from_slice(line).map_err(|error| no_message(Some(error.into())))?;
    let Envelope { greeting, event, data, timestamp, returned, error, id } = envelope;
    match (greeting, event, returned, error) {
        (Some(greeting), None, None, None) => Ok(Message::Greeting(greeting)),
        (None, Some(name), None, None) => {
            let data = data.map(ToOwned::to_owned);
            Ok(Message::Event(Event { name: name.into(), data, timestamp }))
        }
        (None, None, Some(returned), None) => Ok(Message::Reply { id, result: Ok(returned) }),
        (None, None, None, Some(error)) => Ok(Message::Reply { id, result: Err(error) }),
        _ => Err(no_message(None)),
    }
}

/// The beginning of a line, fit for a terminal.
pub(super) fn shown(line: &[u8]) -> String {
    let (start, more) = match line.get(..SHOWN) {
        Some(start) if line.len() > SHOWN => (start, "..."),
        _ => (line, ""),
    };
    let mut shown = String::new();
    for &byte in start {
        match byte {
            b' '..=b'~' => shown.push(byte.into()),
            _ => shown.extend(byte.escape_ascii().map(char::from)),
        }
    }
    shown + more
}
