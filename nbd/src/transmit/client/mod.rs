//! The client's end of the transmission: requests out, replies in.
//!
//! ```text
//!  read, write, ... -> header in `out` -> (socket) -> server
//!                                                       |
//!  Data, Hole, Extent, ..., Done <- step(input) <- (socket)
//! ```
//!
//! Payload passes through as slices of the input and is never collected here. What a server sends
//! is held against the request: a byte that was not asked for, one that comes twice or one that is
//! missing is a `Violation`. Commands that the export does not have never leave (`Unfit`).

mod coverage;
mod replies;

use std::{collections::HashMap, fmt};

use thiserror::Error;

use self::{coverage::Coverage, replies::Now};
use crate::{
    Framing, Terms,
    wire::{ChunkHeader, Command, CommandFlags, Errno, ExtentFlags, Request, TransmissionFlags},
};

pub use replies::{ERROR_LIMIT, EXTENTS_LIMIT};

/// What a server says to a request. Offsets are counted from the start of the export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// Bytes that were read, a slice of the input.
    Data {
        /// The request.
        cookie: u64,
        /// Where they belong.
        at: u64,
        /// At least one.
        bytes: &'a [u8],
    },
    /// Zeroes that were read.
    Hole {
        /// The request.
        cookie: u64,
        /// Where they belong.
        at: u64,
        /// At least 1.
        len: u64,
    },
    /// A run of bytes with one status in a metadata context. The first extent of a context begins at
    /// the request's offset, each other one where its predecessor ends. The last one may reach beyond
    /// the request, but not beyond the export. All extents of a context come before those of the next.
    Extent {
        /// The request.
        cookie: u64,
        /// Where it begins.
        at: u64,
        /// At least 1.
        len: u64,
        /// The id of the context whose status it is ([`Terms::contexts`]).
        context: u32,
        /// The lower 32 bits of the status. Each context gives them a meaning of its own; the named ones
        /// are those of `base:allocation`.
        flags: ExtentFlags,
    },
    /// The end of a request. If it failed, what was read before counts for nothing.
    Done {
        /// The request; free to be used again.
        cookie: u64,
        /// How it went.
        result: Result<(), Failure>,
    },
}

/// What a server said went wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Failure {
    /// The code. One without a name means EINVAL ("Error values").
    pub errno: Errno,
    /// For people; fit to be printed; may be empty.
    pub text: String,
    /// Where it went wrong, if the server said.
    pub at: Option<u64>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.errno)?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        self.at.map_or(Ok(()), |at| write!(f, " (at offset {at})"))
    }
}

/// Why a request does not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unfit {
    /// Not inside the export.
    #[error("offset {at} and length {len} reach past the end of the export, {size} bytes")]
    PastEnd {
        /// Offset.
        at: u64,
        /// Length.
        len: u64,
        /// The export's.
        size: u64,
    },
    /// Not in blocks.
    #[error("offset {at} and length {len} are not multiples of the block size, {minimum} bytes")]
    Unaligned {
        /// Offset.
        at: u64,
        /// Length.
        len: u64,
        /// The export's minimum.
        minimum: u32,
    },
    /// Longer than one request may be.
    #[error("{len} bytes in one request, over the limit of {maximum}")]
    TooLong {
        /// Length.
        len: u64,
        /// The longest for this command.
        maximum: u64,
    },
    /// What a server does with it is not specified.
    #[error("a request for no bytes")]
    Empty,
    /// The export cannot be changed.
    #[error("the export is read-only")]
    ReadOnly,
    /// The server did not offer it.
    #[error("the server does not offer {0}")]
    NotOffered(&'static str),
}

/// A request whose answer is not complete.
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

/// The client's end.
#[derive(Debug)]
pub struct Client {
    terms: Terms,
    pending: HashMap<u64, Pending>,
    cookie: u64,
    now: Now,
}

impl Client {
    /// Room that the input needs so that everything that must be seen whole fits.
    pub const INPUT: usize = ChunkHeader::wire_len(true) + ERROR_LIMIT;

    /// Begins right after the negotiation.
    pub fn new(terms: Terms) -> Self {
        Self { terms, pending: HashMap::new(), cookie: 0, now: Now::Header }
    }

    /// What was agreed.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Requests whose answer is not complete.
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// The longest read or write, in bytes.
    pub fn longest_payload(&self) -> u64 {
        self.terms.blocks.maximum.into()
    }

    /// The longest range of the other commands, in bytes.
    pub fn longest_range(&self) -> u64 {
        let minimum = u64::from(self.terms.blocks.minimum.max(1));
        let most = if self.extended() { i64::MAX as u64 } else { u64::from(u32::MAX) };
        most - most % minimum
    }

    /// NBD_CMD_READ; `df`: in one piece.
    pub fn read(&mut self, at: u64, len: u64, df: bool, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        let mut flags = CommandFlags::empty();
        if df {
            self.offers(TransmissionFlags::SEND_DF, "unfragmented reads")?;
            flags |= CommandFlags::DF;
        }
        self.range(at, len, self.longest_payload())?;
        Ok(self.send(Command::READ, flags, at, len, out))
    }

    /// The header of NBD_CMD_WRITE; exactly `len` bytes must follow it. `fua`: durable before the
    /// answer.
    pub fn write(&mut self, at: u64, len: u64, fua: bool, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        self.writable()?;
        let mut flags = self.fua(fua)?;
        flags.set(CommandFlags::PAYLOAD_LEN, self.extended());
        self.range(at, len, self.longest_payload())?;
        Ok(self.send(Command::WRITE, flags, at, len, out))
    }

    /// NBD_CMD_FLUSH: what was answered before becomes durable.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        self.offers(TransmissionFlags::SEND_FLUSH, "flush")?;
        Ok(self.send(Command::FLUSH, CommandFlags::empty(), 0, 0, out))
    }

    /// NBD_CMD_TRIM: the range is not needed any more.
    pub fn trim(&mut self, at: u64, len: u64, fua: bool, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        self.writable()?;
        self.offers(TransmissionFlags::SEND_TRIM, "trim")?;
        let flags = self.fua(fua)?;
        self.range(at, len, self.longest_range())?;
        Ok(self.send(Command::TRIM, flags, at, len, out))
    }

    /// NBD_CMD_WRITE_ZEROES; of `flags`, FUA, NO_HOLE and FAST_ZERO count.
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
    pub fn cache(&mut self, at: u64, len: u64, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        self.offers(TransmissionFlags::SEND_CACHE, "caching")?;
        self.range(at, len, self.longest_range())?;
        Ok(self.send(Command::CACHE, CommandFlags::empty(), at, len, out))
    }

    /// NBD_CMD_BLOCK_STATUS: the extents of all agreed contexts; with `one`, only the first of each.
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

    /// NBD_CMD_DISC; the server closes. Wait for what is outstanding first.
    pub fn disconnect(mut self, out: &mut Vec<u8>) {
        self.send(Command::DISC, CommandFlags::empty(), 0, 0, out);
    }

    /// The bytes of a read that come next: its cookie, where they belong, how many. A caller that
    /// has no input left over may receive them, or the first of them, in place, and say so by
    /// `placed`: it saves a copy.
    pub const fn expects(&self) -> Option<(u64, u64, u64)> {
        match self.now {
            Now::Data { cookie, at, left, .. } => Some((cookie, at, left)),
            _ => None,
        }
    }

    /// The first `len` of the bytes that `expects` names were received in place. More than it
    /// names count for no more than that.
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
