//! The server's end of the transmission: received bytes to requests.
//!
//! ```text
//!            +--Request: done by the caller--+
//!            v                               |
//!   bytes -> [Header] --long payload--> Write, [Payload] --Payload, Payload, ...--> Written
//!            |      \--refused--> [Skip] --> Refused
//!            +--NBD_CMD_DISC, a write over the cut-off--> End
//! ```
//!
//! The payload of a short write stays in the buffer until it is whole. That of a longer one goes where the
//! caller wants it, out of the buffer or straight from the socket. The payload of a refused request is
//! skipped, whatever the reason.

use super::{Checked, Refused, check, payload_len};
use crate::{
    Buffer, Framing, Terms, Violation,
    negotiate::Negotiated,
    wire::{Command, Request},
};

/// Payload up to which a write waits in the buffer until it is whole, in bytes. The buffer has to hold that
/// much and a header.
pub const IN_PLACE: usize = 16 * 1024;

/// What has been received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Nothing whole: more bytes are needed.
    Incomplete,
    /// A request that may be done.
    Request {
        /// As it was sent.
        request: Request,
        /// What it comes to.
        checked: Checked,
        /// Of a write: so many bytes at the front of the buffer are its payload, all of it. The caller
        /// consumes them.
        payload: usize,
    },
    /// A write that may be done, whose payload comes next.
    Write {
        /// As it was sent.
        request: Request,
        /// What it comes to.
        checked: Checked,
    },
    /// So many bytes at the front of the buffer belong to the payload of that write. The caller takes and
    /// consumes them.
    Payload(usize),
    /// The payload of that write is whole.
    Written {
        /// As it was sent.
        request: Request,
        /// What it comes to.
        checked: Checked,
    },
    /// A request that is answered by an error; its payload has been skipped.
    Refused {
        /// As it was sent.
        request: Request,
        /// The error.
        refused: Refused,
    },
    /// Nothing more is taken from this client.
    End(Ended),
}

/// Why nothing more is taken from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client said so: NBD_CMD_DISC.
    Disconnected(Request),
    /// A write over the cut-off: neither taken in nor answered.
    TooLong(Request),
}

/// The machine. It is made of a `Negotiated` only, so that nothing is done that was not agreed.
#[derive(Debug)]
pub struct Receiver {
    negotiated: Negotiated,
    write_cutoff: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Header,
    Payload { request: Request, checked: Checked, left: usize },
    Skip { request: Request, refused: Refused, left: u64 },
    Ended(Ended),
}

impl Receiver {
    /// At the first byte of the transmission. A write of more than `write_cutoff` bytes ends it.
    pub const fn new(negotiated: Negotiated, write_cutoff: u64) -> Self {
        Self { negotiated, write_cutoff, state: State::Header }
    }

    /// The rules of the transmission.
    pub const fn terms(&self) -> &Terms {
        self.negotiated.terms()
    }

    /// Takes the next thing off the front of `buffer`.
    ///
    /// # Errors
    /// A breach of the protocol after which the connection has to be closed.
    pub fn next(&mut self, buffer: &mut Buffer) -> Result<Received, Violation> {
        match &mut self.state {
            State::Header => self.header(buffer),
            State::Payload { request, checked, left: 0 } => {
                let written = Received::Written { request: *request, checked: *checked };
                self.state = State::Header;
                Ok(written)
            }
            State::Payload { left, .. } => {
                let n = buffer.len().min(*left);
                if n == 0 {
                    return Ok(Received::Incomplete);
                }
                *left -= n;
                Ok(Received::Payload(n))
            }
            State::Skip { request, refused, left } => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                buffer.consume(n);
                *left -= n as u64;
                if *left > 0 {
                    return Ok(Received::Incomplete);
                }
                let refused = Received::Refused { request: *request, refused: *refused };
                self.state = State::Header;
                Ok(refused)
            }
            State::Ended(ended) => Ok(Received::End(*ended)),
        }
    }

    fn header(&mut self, buffer: &mut Buffer) -> Result<Received, Violation> {
        let terms = self.negotiated.terms();
        let extended = terms.framing == Framing::Extended;
        let Some(request) = Request::peek(buffer.filled(), extended)? else {
            return Ok(Received::Incomplete);
        };
        let header = Request::wire_len(extended);
        if request.command == Command::WRITE && request.len > self.write_cutoff {
            buffer.consume(header);
            return Ok(self.end(Ended::TooLong(request)));
        }
        let payload = payload_len(terms, &request)?;
        match check(terms, &request) {
            Err(refused) => {
                buffer.consume(header);
                self.state = State::Skip { request, refused, left: payload };
                self.next(buffer)
            }
            Ok(Checked::Disconnect) => {
                buffer.consume(header);
                Ok(self.end(Ended::Disconnected(request)))
            }
            Ok(checked @ Checked::Write { len, .. }) => {
                let len = len as usize;
                if buffer.len() >= header + len {
                    buffer.consume(header);
                    Ok(Received::Request { request, checked, payload: len })
                } else if len <= IN_PLACE {
                    Ok(Received::Incomplete)
                } else {
                    buffer.consume(header);
                    self.state = State::Payload { request, checked, left: len };
                    Ok(Received::Write { request, checked })
                }
            }
            Ok(checked) => {
                buffer.consume(header);
                Ok(Received::Request { request, checked, payload: 0 })
            }
        }
    }

    fn end(&mut self, ended: Ended) -> Received {
        self.state = State::Ended(ended);
        Received::End(ended)
    }

    /// Bytes of a write's payload that have still to come; 0 outside of one.
    pub const fn payload_missing(&self) -> usize {
        match self.state {
            State::Payload { left, .. } => left,
            _ => 0,
        }
    }

    /// Bytes that have still to come of a payload that is taken or skipped; 0 outside of one, and of a short
    /// write, which waits in the buffer.
    pub const fn payload_left(&self) -> u64 {
        match self.state {
            State::Payload { left, .. } => left as u64,
            State::Skip { left, .. } => left,
            _ => 0,
        }
    }

    /// Says that the next `n` bytes of the payload were received straight to where they belong.
    ///
    /// # Panics
    /// If fewer are missing.
    pub fn payload_received(&mut self, n: usize) {
        assert!(n <= self.payload_missing(), "more bytes received than the payload has");
        if let State::Payload { left, .. } = &mut self.state {
            *left -= n;
        }
    }

    /// Refuses the write whose payload comes next: what is missing of it is skipped.
    pub fn refuse(&mut self, refused: Refused) {
        if let State::Payload { request, left, .. } = self.state {
            self.state = State::Skip { request, refused, left: left as u64 };
        }
    }

    /// Whether the bytes of a message have begun to come, in or before `buffer`.
    pub const fn is_inside(&self, buffer: &Buffer) -> bool {
        !buffer.is_empty() || !matches!(self.state, State::Header | State::Ended(_))
    }
}
