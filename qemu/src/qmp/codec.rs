//! Parses bytes to lines, and a line to a message, without I/O and without a clock.
//!
//! `client` passes it what QEMU sends. Any input is a message or an error, never a panic, and takes at most the
//! memory of a line.

#[cfg(test)]
mod tests;

use std::{borrow::Cow, mem};

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::text::Text;

/// Longest line, in bytes without its end. QEMU's longest replies (all types, all properties) have a quarter of it.
pub const LINE_MAX: usize = 1 << 20;
/// Most bytes of a line that an error message shows.
const SHOWN: usize = 80;

/// A line is longer than [`LINE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a line of more than {LINE_MAX} bytes was sent, which no QEMU does")]
pub struct TooLong;

/// Received bytes, cut into lines.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// The bytes before this index were taken.
    start: usize,
    /// The number of bytes after `start` that have no end of a line.
    searched: usize,
}

impl Lines {
    /// Appends received bytes. A caller that takes all lines after each call holds at most one line and the bytes
    /// appended last.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..mem::take(&mut self.start));
        self.searched = self.searched.min(self.bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete line without its end; empty lines are skipped. `None` if there is none yet.
    ///
    /// # Errors
    /// [`TooLong`], if the line has more than [`LINE_MAX`] bytes.
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

    /// The number of bytes that belong to no line that was taken.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.start
    }
}

/// Something that happened in QEMU.
#[derive(Debug, Clone)]
pub struct Event {
    /// QEMU's name of the event, such as `SHUTDOWN`.
    pub name: Text,
    /// The event's data as it was received.
    pub data: Option<Box<RawValue>>,
    /// The time of the event by the host's clock.
    pub timestamp: Option<Timestamp>,
}

/// The time since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Timestamp {
    /// Seconds; -1 if QEMU could not read the clock.
    pub seconds: i64,
    /// 0 to 999,999; -1 if QEMU could not read the clock.
    pub microseconds: i64,
}

impl Event {
    /// The data as a type of `qapi`; `None` if it has another form, as that of a newer QEMU may.
    pub fn parse<D: for<'a> Deserialize<'a>>(&self) -> Option<D> {
        serde_json::from_str(self.data.as_ref().map_or("{}", |data| data.get())).ok()
    }
}

/// QEMU's reply to a command that it refuses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Error)]
#[error("QEMU refuses: {desc}")]
pub struct Refusal {
    /// `GenericError`, `CommandNotFound`, `DeviceNotFound` and a few more.
    pub class: Text,
    /// The reason, for people.
    pub desc: Text,
}

/// A message of QEMU.
#[derive(Debug)]
pub enum Message<'a> {
    /// The first line of a connection: version and capabilities.
    Greeting(&'a RawValue),
    /// An event.
    Event(Event),
    /// The reply to a command.
    Reply {
        /// The id of the command; `None` if QEMU could not parse the command.
        id: Option<&'a RawValue>,
        /// What the command returned.
        result: Result<&'a RawValue, Refusal>,
    },
}

/// A line is not a message of QMP.
#[derive(Debug, Error)]
#[error("it sent '{shown}', which is no message of QMP")]
pub struct MessageError {
    /// The beginning of the line, escaped.
    pub shown: String,
    /// Why it is not JSON; `None` if it is JSON with the members of no message.
    pub source: Option<JsonError>,
}

/// The JSON is malformed or of another form than expected. The message may quote QEMU, and is printed escaped.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct JsonError(Text);

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string().into())
    }
}

/// Parses one line.
///
/// # Errors
/// [`MessageError`], if the line is not a message of QMP.
pub fn decode(line: &[u8]) -> Result<Message<'_>, MessageError> {
    /// Every member that a message can have.
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
    // serde would accept an array as the fields of the structure.
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

/// The beginning of a line, escaped for a terminal.
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
