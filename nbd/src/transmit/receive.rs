//! The server's end of the transmission: from received bytes to requests.
//!
//! ```text
//!            +---Request: for the caller-----+
//!            v                               |
//!   bytes -> [Header] --long payload--> Write, [Payload] --Payload, Payload, ...--> Written
//!            |      \--refused--> [Skip] --> Refused
//!            +--NBD_CMD_DISC, a write over the cut-off--> End
//! ```
//!
//! The payload of a short write stays in the buffer until it is complete. The payload of a longer write goes
//! where the caller puts it, out of the buffer or straight from the socket. The payload of a refused request
//! is skipped.

use super::{Checked, Refused, check, payload_len};
use crate::{
    Buffer, Framing, Terms, Violation,
    negotiate::Negotiated,
    wire::{Command, Request},
};

/// The longest payload of a write that waits in the buffer until it is complete, in bytes. The buffer has to
/// hold that and a header of [`EXTENDED_REQUEST_LEN`](crate::wire::EXTENDED_REQUEST_LEN) bytes.
pub const IN_PLACE: usize = 16 * 1024;

/// What has been received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// No complete message: more bytes are needed.
    Incomplete,
    /// A request that may be executed.
    Request {
        /// As it was sent.
        request: Request,
        /// What it comes to.
        checked: Checked,
        /// For a write, the length of its payload, which is at the front of the buffer; else 0. The caller
        /// consumes these bytes.
        payload: usize,
    },
    /// A write that may be executed, whose payload comes next.
    Write {
        /// As it was sent.
        request: Request,
        /// What it comes to.
        checked: Checked,
    },
    /// So many bytes at the front of the buffer belong to the payload of the last `Write`. The caller copies
    /// and consumes them.
    Payload(usize),
    /// The payload of the last `Write` is complete.
    Written {
        /// As it was sent.
        request: Request,
        /// What it comes to.
        checked: Checked,
    },
    /// A request that the server answers with an error. Its payload has been skipped.
    Refused {
        /// As it was sent.
        request: Request,
        /// The error.
        refused: Refused,
    },
    /// The transmission has ended: no more requests are taken from this client.
    End(Ended),
}

/// Why a transmission has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client sent NBD_CMD_DISC.
    Disconnected(Request),
    /// A write longer than the caller's limit. It is neither received nor answered.
    TooLong(Request),
}

/// The server's machine. It needs a [`Negotiated`], so no request is taken before an export is agreed.
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
    /// Starts at the first byte of the transmission. A write of more than `write_cutoff` bytes ends it.
    pub const fn new(negotiated: Negotiated, write_cutoff: u64) -> Self {
        Self { negotiated, write_cutoff, state: State::Header }
    }

    /// The rules of the transmission.
    pub const fn terms(&self) -> &Terms {
        self.negotiated.terms()
    }

    /// Takes the next message, or part of one, off the front of `buffer`.
    ///
    /// # Errors
    /// A [`Violation`] after which the connection has to be closed: a wrong magic, or a payload longer than
    /// [`MAX_DRAIN`](super::MAX_DRAIN).
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

    /// The bytes that are missing of a write's payload; 0 outside of a payload.
    pub const fn payload_missing(&self) -> usize {
        match self.state {
            State::Payload { left, .. } => left,
            _ => 0,
        }
    }

    /// The bytes that are missing of a payload that is received or skipped; 0 outside of a payload, and for a
    /// short write, which waits in the buffer.
    pub const fn payload_left(&self) -> u64 {
        match self.state {
            State::Payload { left, .. } => left as u64,
            State::Skip { left, .. } => left,
            _ => 0,
        }
    }

    /// Records that the caller received the next `n` bytes of the payload without the buffer.
    ///
    /// # Panics
    /// If fewer bytes are missing.
    pub fn payload_received(&mut self, n: usize) {
        assert!(n <= self.payload_missing(), "more bytes received than the payload has");
        if let State::Payload { left, .. } = &mut self.state {
            *left -= n;
        }
    }

    /// Refuses the write whose payload comes next: the missing bytes are skipped.
    pub fn refuse(&mut self, refused: Refused) {
        if let State::Payload { request, left, .. } = self.state {
            self.state = State::Skip { request, refused, left: left as u64 };
        }
    }

    /// Whether a message has begun and is not complete.
    pub const fn is_inside(&self, buffer: &Buffer) -> bool {
        !buffer.is_empty() || !matches!(self.state, State::Header | State::Ended(_))
    }
}
