//! The client's end of the transmission: requests out, replies in ("Transmission").
//!
//! ```text
//!  read, write, ... -> header in `out` -> (socket) -> server
//!                                                       |
//!  Data, Hole, Extent, ..., Done <- step(input) <- (socket)
//! ```
//!
//! Payload passes through as slices of the input and is never copied here. The machine checks each reply
//! against its request: a byte that was not requested, that comes twice or that is missing is a
//! [`Violation`](crate::Violation). A request that the export does not take is refused before it is sent ([`Unfit`]).
//!
//! ```
//! use nbd::{Framing, Terms, transmit::client::{Client, Event}, wire::TransmissionFlags};
//!
//! let mut client = Client::new(Terms {
//!     size: 4096,
//!     flags: TransmissionFlags::HAS_FLAGS,
//!     framing: Framing::Simple,
//!     contexts: Vec::new(),
//!     blocks: nbd::BlockSizes::default(),
//!     unit: 1,
//! });
//! let mut out = Vec::new();
//! let cookie = client.read(0, 3, false, &mut out)?;
//! // `out` goes to the server, which answers:
//! let input = [&b"\x67\x44\x66\x98\0\0\0\0"[..], &cookie.to_be_bytes(), b"abc"].concat();
//! let (consumed, event) = client.step(&input)?;
//! assert_eq!(event, Some(Event::Data { cookie, at: 0, bytes: b"abc" }));
//! let (_, event) = client.step(&input[consumed..])?;
//! assert_eq!(event, Some(Event::Done { cookie, result: Ok(()) }));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod coverage;
mod event;
mod replies;

use std::collections::HashMap;

use self::{coverage::Coverage, replies::Now};
use crate::{
    Framing, Terms,
    wire::{ChunkHeader, Command, CommandFlags, Request, TransmissionFlags},
};

pub use event::{Event, Failure, Unfit};
pub use replies::{ERROR_LIMIT, EXTENTS_LIMIT};

/// A request whose answer is not complete yet.
#[derive(Debug)]
struct Pending {
    command: Command,
    flags: CommandFlags,
    at: u64,
    len: u64,
    coverage: Coverage,
    /// Chunks of content.
    chunks: u64,
    /// Contexts whose status has come.
    contexts: Vec<u32>,
    errors: u32,
    failure: Option<Failure>,
}

/// The client's machine of the transmission. Several requests may be outstanding; each has a cookie, and the
/// answers come in any order.
///
/// A method for a request appends it to `out` and returns its cookie.
#[derive(Debug)]
pub struct Client {
    terms: Terms,
    pending: HashMap<u64, Pending>,
    cookie: u64,
    now: Now,
}

impl Client {
    /// The size of an input buffer that holds every part that must be complete before it is understood, in
    /// bytes.
    pub const INPUT: usize = ChunkHeader::wire_len(true) + ERROR_LIMIT;

    /// Starts right after the negotiation.
    pub fn new(terms: Terms) -> Self {
        Self { terms, pending: HashMap::new(), cookie: 0, now: Now::Header }
    }

    /// The rules of the transmission.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The number of requests whose answer is not complete.
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// The limit for one read or write, in bytes.
    pub fn longest_payload(&self) -> u64 {
        self.terms.blocks.maximum.into()
    }

    /// The limit for the range of another command, in bytes.
    pub fn longest_range(&self) -> u64 {
        let minimum = u64::from(self.terms.blocks.minimum.max(1));
        let most = if self.extended() { i64::MAX as u64 } else { u64::from(u32::MAX) };
        most - most % minimum
    }

    /// NBD_CMD_READ. With `df` the server answers in one chunk.
    ///
    /// # Errors
    /// The range is not allowed, or the server does not offer DF.
    pub fn read(&mut self, at: u64, len: u64, df: bool, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        let mut flags = CommandFlags::empty();
        if df {
            self.offers(TransmissionFlags::SEND_DF, "unfragmented reads")?;
            flags |= CommandFlags::DF;
        }
        self.range(at, len, self.longest_payload())?;
        Ok(self.send(Command::READ, flags, at, len, out))
    }

    /// The header of NBD_CMD_WRITE. The caller has to append exactly `len` bytes of payload. With `fua` the
    /// data is durable before the answer.
    ///
    /// # Errors
    /// The export is read-only, the range is not allowed, or the server does not offer FUA.
    pub fn write(&mut self, at: u64, len: u64, fua: bool, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        self.writable()?;
        let mut flags = self.fua(fua)?;
        flags.set(CommandFlags::PAYLOAD_LEN, self.extended());
        self.range(at, len, self.longest_payload())?;
        Ok(self.send(Command::WRITE, flags, at, len, out))
    }

    /// NBD_CMD_FLUSH: every write that was answered before becomes durable.
    ///
    /// # Errors
    /// The server does not offer it.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        self.offers(TransmissionFlags::SEND_FLUSH, "flush")?;
        Ok(self.send(Command::FLUSH, CommandFlags::empty(), 0, 0, out))
    }

    /// NBD_CMD_TRIM: the server may discard the range.
    ///
    /// # Errors
    /// The export is read-only, the range is not allowed, or the server does not offer it.
    pub fn trim(&mut self, at: u64, len: u64, fua: bool, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        self.writable()?;
        self.offers(TransmissionFlags::SEND_TRIM, "trim")?;
        let flags = self.fua(fua)?;
        self.range(at, len, self.longest_range())?;
        Ok(self.send(Command::TRIM, flags, at, len, out))
    }

    /// NBD_CMD_WRITE_ZEROES. Of `flags`, only FUA, NO_HOLE and FAST_ZERO are used.
    ///
    /// # Errors
    /// The export is read-only, the range is not allowed, or the server does not offer it.
    pub fn zero(
        &mut self,
        at: u64,
        len: u64,
        flags: CommandFlags,
        out: &mut Vec<u8>,
    ) -> Result<u64, Unfit> {
        self.writable()?;
        self.offers(TransmissionFlags::SEND_WRITE_ZEROES, "zeroing")?;
        let mut send = self.fua(flags.contains(CommandFlags::FUA))?;
        send |= flags & CommandFlags::NO_HOLE;
        if flags.contains(CommandFlags::FAST_ZERO) {
            self.offers(TransmissionFlags::SEND_FAST_ZERO, "fast zeroing")?;
            send |= CommandFlags::FAST_ZERO;
        }
        self.range(at, len, self.longest_range())?;
        Ok(self.send(Command::WRITE_ZEROES, send, at, len, out))
    }

    /// NBD_CMD_CACHE: the range will be read soon.
    ///
    /// # Errors
    /// The range is not allowed, or the server does not offer it.
    pub fn cache(&mut self, at: u64, len: u64, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        self.offers(TransmissionFlags::SEND_CACHE, "caching")?;
        self.range(at, len, self.longest_range())?;
        Ok(self.send(Command::CACHE, CommandFlags::empty(), at, len, out))
    }

    /// NBD_CMD_BLOCK_STATUS: the extents of all agreed contexts. With `one`, only the first of each.
    ///
    /// # Errors
    /// The range is not allowed, or no context was agreed.
    pub fn extents(
        &mut self,
        at: u64,
        len: u64,
        one: bool,
        out: &mut Vec<u8>,
    ) -> Result<u64, Unfit> {
        if self.terms.contexts.is_empty() {
            return Err(Unfit::NotOffered("block status"));
        }
        self.range(at, len, self.longest_range())?;
        let flags = if one { CommandFlags::REQ_ONE } else { CommandFlags::empty() };
        Ok(self.send(Command::BLOCK_STATUS, flags, at, len, out))
    }

    /// NBD_CMD_DISC: the server closes the connection. Wait for all outstanding requests first.
    pub fn disconnect(mut self, out: &mut Vec<u8>) {
        self.send(Command::DISC, CommandFlags::empty(), 0, 0, out);
    }

    /// The data of a read that comes next: cookie, offset and number of bytes. A caller without unconsumed
    /// input may receive these bytes, or the first of them, directly into their place. It reports that by
    /// [`placed`](Self::placed), and saves a copy.
    pub const fn expects(&self) -> Option<(u64, u64, u64)> {
        match self.now {
            Now::Data { cookie, at, left, .. } => Some((cookie, at, left)),
            _ => None,
        }
    }

    /// Records that the first `len` of the bytes that [`expects`](Self::expects) names were received in their
    /// place. A larger `len` counts as all of them.
    pub const fn placed(&mut self, len: u64) {
        if let Now::Data { cookie, at, left, done } = self.now {
            self.now = if len < left {
                Now::Data { cookie, at: at + len, left: left - len, done }
            } else {
                replies::after_chunk(cookie, done)
            };
        }
    }

    fn extended(&self) -> bool {
        self.terms.framing == Framing::Extended
    }

    fn offers(&self, flag: TransmissionFlags, what: &'static str) -> Result<(), Unfit> {
        if self.terms.flags.contains(flag) { Ok(()) } else { Err(Unfit::NotOffered(what)) }
    }

    fn writable(&self) -> Result<(), Unfit> {
        let read_only = self.terms.flags.contains(TransmissionFlags::READ_ONLY);
        if read_only { Err(Unfit::ReadOnly) } else { Ok(()) }
    }

    fn fua(&self, fua: bool) -> Result<CommandFlags, Unfit> {
        if !fua {
            return Ok(CommandFlags::empty());
        }
        self.offers(TransmissionFlags::SEND_FUA, "FUA")?;
        Ok(CommandFlags::FUA)
    }

    fn range(&self, at: u64, len: u64, maximum: u64) -> Result<(), Unfit> {
        let (size, minimum) = (self.terms.size, self.terms.blocks.minimum.max(1));
        if len == 0 {
            return Err(Unfit::Empty);
        }
        if at.checked_add(len).is_none_or(|end| end > size) {
            return Err(Unfit::PastEnd { at, len, size });
        }
        if !at.is_multiple_of(minimum.into()) || !len.is_multiple_of(minimum.into()) {
            return Err(Unfit::Unaligned { at, len, minimum });
        }
        if len > maximum {
            return Err(Unfit::TooLong { len, maximum });
        }
        Ok(())
    }

    fn send(
        &mut self,
        command: Command,
        flags: CommandFlags,
        at: u64,
        len: u64,
        out: &mut Vec<u8>,
    ) -> u64 {
        self.cookie = self.cookie.wrapping_add(1);
        let cookie = self.cookie;
        Request { flags, command, cookie, offset: at, len }.put(self.extended(), out);
        let coverage = Coverage::new(at, at.saturating_add(len));
        let pending = Pending {
            command,
            flags,
            at,
            len,
            coverage,
            chunks: 0,
            contexts: Vec::new(),
            errors: 0,
            failure: None,
        };
        self.pending.insert(cookie, pending);
        cookie
    }
}

#[cfg(test)]
mod tests;
