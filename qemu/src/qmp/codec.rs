//! Bytes to lines, and a line to what it says. Pure: no socket, no clock.
//!
//! `client` feeds it what QEMU sends. Whatever that is, it costs at most a line's memory, and is an
//! error or a message, never a panic.

use std::{borrow::Cow, mem};

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

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
    pub name: String,
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
    pub class: String,
    /// For people.
    pub desc: String,
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
    pub source: Option<serde_json::Error>,
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
        serde_json::from_slice(line).map_err(|error| no_message(Some(error)))?;
    let Envelope { greeting, event, data, timestamp, returned, error, id } = envelope;
    match (greeting, event, returned, error) {
        (Some(greeting), None, None, None) => Ok(Message::Greeting(greeting)),
        (None, Some(name), None, None) => {
            let data = data.map(ToOwned::to_owned);
            Ok(Message::Event(Event { name: name.into_owned(), data, timestamp }))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut lines = Lines::default();
        let mut taken = Vec::new();
        for chunk in chunks {
            lines.push(chunk);
            while let Some(line) = lines.take()? {
                taken.push(line.to_vec());
            }
        }
        Ok(taken)
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let text = b"{\"a\":1}\r\n\n  \n{}\nx\nrest";
        let whole = lines(&[text]).unwrap();
        assert_eq!(whole, [&b"{\"a\":1}\r"[..], b"{}", b"x"]);
        for cut in 0..text.len() {
            assert_eq!(lines(&[&text[..cut], &text[cut..]]).unwrap(), whole, "{cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines(&bytes).unwrap(), whole);
    }

    #[test]
    fn a_line_has_a_length_that_it_may_have() {
        let mut longest = vec![b'x'; LINE_MAX];
        longest.push(b'\n');
        assert_eq!(lines(&[&longest, b"{}\n"]).unwrap().len(), 2);
        longest.insert(0, b'x');
        assert_eq!(lines(&[&longest]), Err(TooLong));

        let mut endless = Lines::default();
        let mut fed = 0;
        let error = loop {
            endless.push(&[b'x'; 65536]);
            fed += 65536;
            if let Err(error) = endless.take() {
                break error;
            }
        };
        assert!(fed <= LINE_MAX + 65536, "{fed}");
        assert!(error.to_string().contains("1048576"), "{error}");
    }

    #[test]
    fn each_kind_of_message_is_known() {
        let greeting = br#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;
        assert!(matches!(decode(greeting), Ok(Message::Greeting(_))));
        let event = br#"{"timestamp": {"seconds": 5, "microseconds": 7}, "event": "STOP"}"#;
        let Ok(Message::Event(event)) = decode(event) else { panic!("an event") };
        assert_eq!((event.name.as_str(), event.timestamp.unwrap().seconds), ("STOP", 5));
        let reply = br#"{"return": {"arch": "x86_64"}, "id": 7}"#;
        let Ok(Message::Reply { id: Some(id), result: Ok(value) }) = decode(reply) else {
            panic!("a reply")
        };
        assert_eq!((id.get(), value.get()), ("7", r#"{"arch": "x86_64"}"#));
        let refusal = br#"{"error": {"class": "GenericError", "desc": "no"}}"#;
        let Ok(Message::Reply { id: None, result: Err(refusal) }) = decode(refusal) else {
            panic!("a refusal")
        };
        assert_eq!(refusal.to_string(), "QEMU refuses: no");
    }

    #[test]
    fn what_is_no_message_is_shown_and_nothing_of_it_reaches_the_terminal() {
        for (line, said) in [
            (
                &b"220 mail.example ESMTP\x1b[2J"[..],
                "sent '220 mail.example ESMTP\\x1b[2J', which is no message of QMP",
            ),
            (b"\xff\xfe", "sent '\\xff\\xfe', which is no message of QMP"),
            (b"{\"return\": {}", "no message of QMP"),
            (b"{}", "sent '{}', which"),
            (b"[]", "no message of QMP"),
            (b"7", "no message of QMP"),
            (b"{\"event\": 7}", "no message of QMP"),
            (b"{\"event\": \"A\", \"return\": {}}", "no message of QMP"),
            (b"{\"return\": {}, \"return\": {}}", "no message of QMP"),
            (b"{\"error\": \"no\"}", "no message of QMP"),
        ] {
            let error = decode(line).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let deep = "[".repeat(LINE_MAX);
        assert!(decode(deep.as_bytes()).unwrap_err().to_string().len() < 200);
        let deep = format!("{{\"return\": {}{}}}", "[".repeat(400_000), "]".repeat(400_000));
        let Ok(Message::Reply { result: Ok(value), .. }) = decode(deep.as_bytes()) else {
            panic!("a reply")
        };
        serde_json::from_str::<serde_json::Value>(value.get()).expect_err("too deep");
    }
}
