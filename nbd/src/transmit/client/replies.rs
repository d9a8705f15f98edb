//! Replies, parsed from the stream and checked against their requests ("Structured reply types").

use super::{Client, Event, Failure, Pending};
use crate::{
    Framing, Violation,
    error::reason,
    wire::{
        ChunkFlags, ChunkHeader, ChunkType, Command, CommandFlags, Errno, ExtentFlags, MAX_STRING,
        Magic, Reader, SIMPLE_REPLY_LEN, SIMPLE_REPLY_MAGIC, SimpleReply,
    },
};

/// The longest error chunk that the client takes, in bytes. A text of 4096 bytes and all other fields fit.
pub const ERROR_LIMIT: usize = 8 << 10;

/// The longest chunk of extents that the client takes, in bytes: 2^20 extents with 64-bit fields, the most
/// that any known server sends. A caller can afford to keep them all.
pub const EXTENTS_LIMIT: u64 = 8 + (16 << 20);

/// The most errors of one request. A server may send one for each failed piece of a read.
const MOST_ERRORS: u32 = 1024;

/// The meaning of the next bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Now {
    Header,
    /// Bytes of a read.
    Data {
        cookie: u64,
        at: u64,
        left: u64,
        done: bool,
    },
    /// Descriptors of a block status.
    Extents {
        cookie: u64,
        context: u32,
        at: u64,
        left: u64,
        wide: bool,
        done: bool,
    },
    /// Nothing: the request is complete.
    Finish {
        cookie: u64,
    },
}

fn breach(cookie: u64, why: &'static str) -> Violation {
    Violation::Reply { cookie, why }
}

impl Client {
    /// Consumes bytes from the front of `input`, which begins with all bytes that were not consumed before.
    /// Returns how many it consumed, and the first event in them. The caller repeats the call with the rest
    /// of the input, even if it is empty, until there is no event: then more bytes are needed.
    ///
    /// # Errors
    /// The server broke the protocol. Close the connection.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Violation> {
        let mut rest = input;
        let event = loop {
            match self.turn(&mut rest)? {
                Turn::Hungry => break None,
                Turn::Again => {}
                Turn::Tell(event) => break Some(event),
            }
        };
        Ok((input.len() - rest.len(), event))
    }

    fn turn<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Turn<'a>, Violation> {
        match self.now {
            Now::Header => self.header(rest),
            Now::Data { cookie, at, left, .. } => {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                if len == 0 {
                    return Ok(Turn::Hungry);
                }
                let (bytes, after) = rest.split_at(len);
                *rest = after;
                self.placed(len as u64);
                Ok(Turn::Tell(Event::Data { cookie, at, bytes }))
            }
            Now::Extents { cookie, context, at, left, wide, done } => {
                let Some((len, flags)) = descriptor(rest, wide) else { return Ok(Turn::Hungry) };
                let end = self.judge_extent(cookie, at, len)?;
                self.now = match left {
                    1 => after_chunk(cookie, done),
                    _ => Now::Extents { cookie, context, at: end, left: left - 1, wide, done },
                };
                Ok(Turn::Tell(Event::Extent { cookie, context, at, len, flags }))
            }
            Now::Finish { cookie } => {
                self.now = Now::Header;
                let Some(pending) = self.pending.remove(&cookie) else {
                    return Err(breach(cookie, "no such request is outstanding"));
                };
                let result = pending.finish(cookie, self.terms.contexts.len())?;
                Ok(Turn::Tell(Event::Done { cookie, result }))
            }
        }
    }

    fn header<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Turn<'a>, Violation> {
        let Ok(magic) = Reader::new(rest).u32() else { return Ok(Turn::Hungry) };
        let framing = self.terms.framing;
        if framing < Framing::Extended && magic == SIMPLE_REPLY_MAGIC {
            let Some(reply) = SimpleReply::peek(rest)? else { return Ok(Turn::Hungry) };
            *rest = rest.get(SIMPLE_REPLY_LEN..).unwrap_or_default();
            self.simple(reply)?;
            return Ok(Turn::Again);
        }
        if framing == Framing::Simple {
            return Err(Violation::Magic { expected: Magic::Reply, got: magic.into() });
        }
        let extended = framing == Framing::Extended;
        let Some(header) = ChunkHeader::peek(rest, extended)? else { return Ok(Turn::Hungry) };
        let fixed = self.judge_header(&header)?;
        let start = ChunkHeader::wire_len(extended);
        let Some(body) = rest.get(start..start + fixed) else { return Ok(Turn::Hungry) };
        *rest = rest.get(start + fixed..).unwrap_or_default();
        self.chunk(&header, body)
    }

    fn pending(&mut self, cookie: u64) -> Result<&mut Pending, Violation> {
        let absent = breach(cookie, "no such request is outstanding");
        self.pending.get_mut(&cookie).ok_or(absent)
    }

    fn simple(&mut self, reply: SimpleReply) -> Result<(), Violation> {
        let SimpleReply { error, cookie } = reply;
        let structured = self.terms.framing == Framing::Structured;
        let pending = self.pending(cookie)?;
        let reads = pending.command == Command::READ;
        if structured && reads {
            return Err(breach(cookie, "a simple reply to a read, though structured was agreed"));
        }
        let mut now = Now::Finish { cookie };
        if error != Errno(0) {
            pending.failure = Some(Failure { errno: error, text: String::new(), at: None });
        } else if reads {
            let (at, left) = (pending.at, pending.len);
            pending.coverage.add(at, left).map_err(|why| breach(cookie, why))?;
            now = Now::Data { cookie, at, left, done: true };
        }
        self.now = now;
        Ok(())
    }

    /// Judges a chunk by its header, before its payload arrives. Returns how many bytes of payload must be
    /// complete before they are parsed.
    fn judge_header(&mut self, header: &ChunkHeader) -> Result<usize, Violation> {
        let ChunkHeader { flags, kind, cookie, offset, len } = *header;
        let extended = self.terms.framing == Framing::Extended;
        let pending = self.pending(cookie)?;
        if extended && offset != pending.at {
            return Err(breach(cookie, "the offset of another request"));
        }
        let reads = pending.command == Command::READ;
        let status = pending.command == Command::BLOCK_STATUS;
        let one = pending.flags.contains(CommandFlags::REQ_ONE);
        match kind {
            ChunkType::NONE if len != 0 => Err(breach(cookie, "an empty chunk with payload")),
            ChunkType::NONE if !flags.contains(ChunkFlags::DONE) => {
                Err(breach(cookie, "an empty chunk that is not the last"))
            }
            ChunkType::NONE => Ok(0),
            ChunkType::OFFSET_DATA if reads && (9..=8 + pending.len).contains(&len) => Ok(8),
            ChunkType::OFFSET_HOLE if reads && len == 12 => Ok(12),
            ChunkType::BLOCK_STATUS | ChunkType::BLOCK_STATUS_EXT if len > EXTENTS_LIMIT => {
                Err(breach(cookie, "more extents in one chunk than are taken, 2^20"))
            }
            ChunkType::BLOCK_STATUS if status && len >= 12 && (len - 4).is_multiple_of(8) => {
                if one && len != 12 {
                    return Err(breach(cookie, "more than the one extent that was asked for"));
                }
                Ok(4)
            }
            ChunkType::BLOCK_STATUS_EXT
                if status && extended && len >= 24 && (len - 8).is_multiple_of(16) =>
            {
                if one && len != 24 {
                    return Err(breach(cookie, "more than the one extent that was asked for"));
                }
                Ok(8)
            }
            error if error.is_error() => match usize::try_from(len) {
                Ok(whole) if (6..=ERROR_LIMIT).contains(&whole) => Ok(whole),
                _ => Err(breach(cookie, "an error chunk of an impossible length")),
            },
            _ => Err(breach(cookie, "a chunk that does not belong to the request, or its length")),
        }
    }

    fn chunk<'a>(&mut self, header: &ChunkHeader, body: &[u8]) -> Result<Turn<'a>, Violation> {
        let ChunkHeader { flags, kind, cookie, len, .. } = *header;
        let done = flags.contains(ChunkFlags::DONE);
        let mut reader = Reader::new(body);
        self.now = after_chunk(cookie, done);
        match kind {
            ChunkType::NONE => {}
            ChunkType::OFFSET_DATA => {
                let (at, left) = (reader.u64()?, len - 8);
                self.pending(cookie)?.content(cookie, at, left)?;
                self.now = Now::Data { cookie, at, left, done };
            }
            ChunkType::OFFSET_HOLE => {
                let (at, len) = (reader.u64()?, reader.u32()?.into());
                self.pending(cookie)?.content(cookie, at, len)?;
                return Ok(Turn::Tell(Event::Hole { cookie, at, len }));
            }
            ChunkType::BLOCK_STATUS | ChunkType::BLOCK_STATUS_EXT => {
                let wide = kind == ChunkType::BLOCK_STATUS_EXT;
                let left = if wide { (len - 8) / 16 } else { (len - 4) / 8 };
                let id = reader.u32()?;
                let count = if wide { reader.u32()? } else { 0 };
                let selected = self.terms.contexts.iter().any(|context| context.id == id);
                let pending = self.pending(cookie)?;
                if !selected {
                    return Err(breach(cookie, "the status of a context that was not selected"));
                }
                if pending.contexts.contains(&id) {
                    return Err(breach(cookie, "the status of a context that has come already"));
                }
                pending.contexts.push(id);
                if count != 0 && u64::from(count) != left {
                    return Err(breach(cookie, "a count of extents that disagrees with its chunk"));
                }
                let at = pending.at;
                self.now = Now::Extents { cookie, context: id, at, left, wide, done };
            }
            _ => {
                let failure = failure(cookie, kind, reader)?;
                let pending = self.pending(cookie)?;
                let inside = |at: u64| at >= pending.at && at - pending.at < pending.len;
                if failure.at.is_some_and(|at| !inside(at)) {
                    return Err(breach(cookie, "an error at an offset outside the request"));
                }
                pending.errors += 1;
                if pending.errors > MOST_ERRORS {
                    return Err(breach(cookie, "more errors than are taken of one request, 1024"));
                }
                // The first one is the cause.
                pending.failure.get_or_insert(failure);
            }
        }
        Ok(Turn::Again)
    }

    /// Checks an extent and returns the offset of its end.
    fn judge_extent(&mut self, cookie: u64, at: u64, len: u64) -> Result<u64, Violation> {
        let size = self.terms.size;
        let pending = self.pending(cookie)?;
        if len == 0 {
            return Err(breach(cookie, "an extent of no bytes"));
        }
        if at - pending.at >= pending.len {
            return Err(breach(cookie, "an extent that begins past the end of the request"));
        }
        if pending.flags.contains(CommandFlags::REQ_ONE) && len > pending.len {
            return Err(breach(cookie, "an extent longer than the requested range"));
        }
        let end = at.checked_add(len).filter(|end| *end <= size);
        end.ok_or_else(|| breach(cookie, "an extent past the end of the export"))
    }
}

enum Turn<'a> {
    Hungry,
    Again,
    Tell(Event<'a>),
}

pub(super) const fn after_chunk(cookie: u64, done: bool) -> Now {
    if done { Now::Finish { cookie } } else { Now::Header }
}

impl Pending {
    /// Records a chunk of data or of a hole.
    fn content(&mut self, cookie: u64, at: u64, len: u64) -> Result<(), Violation> {
        self.chunks += 1;
        if self.chunks > 1 && self.flags.contains(CommandFlags::DF) {
            return Err(breach(cookie, "a read in pieces, though one piece was asked for"));
        }
        self.coverage.add(at, len).map_err(|why| breach(cookie, why))
    }

    /// Judges the answer after its last chunk. `contexts` is the number of agreed contexts.
    fn finish(self, cookie: u64, contexts: usize) -> Result<Result<(), Failure>, Violation> {
        if let Some(failure) = self.failure {
            return Ok(Err(failure));
        }
        match self.command {
            Command::READ if !self.coverage.is_whole() => {
                Err(breach(cookie, "success, though bytes of the read are missing"))
            }
            Command::BLOCK_STATUS if self.contexts.len() < contexts => {
                Err(breach(cookie, "success, though the status is missing"))
            }
            _ => Ok(Ok(())),
        }
    }
}

/// Takes an extent's descriptor off the front, if it is complete.
fn descriptor(rest: &mut &[u8], wide: bool) -> Option<(u64, ExtentFlags)> {
    let mut reader = Reader::new(rest);
    let (len, flags) = if wide {
        // No known context uses the upper half of the status.
        let (len, _upper) = (reader.u64().ok()?, reader.u32().ok()?);
        (len, reader.u32().ok()?)
    } else {
        (reader.u32().ok()?.into(), reader.u32().ok()?)
    };
    *rest = reader.rest();
    Some((len, ExtentFlags::from_bits_retain(flags)))
}

/// Parses an error chunk. Types without a name begin with the same fields.
fn failure(cookie: u64, kind: ChunkType, mut reader: Reader<'_>) -> Result<Failure, Violation> {
    let (errno, len) = (Errno(reader.u32()?), usize::from(reader.u16()?));
    let Ok(text) = reader.take(len) else {
        return Err(breach(cookie, "an error text that is longer than its chunk"));
    };
    if errno == Errno(0) || len > MAX_STRING {
        return Err(breach(cookie, "an error without a code, or with a text over 4096 bytes"));
    }
    let at = match kind {
        ChunkType::ERROR_OFFSET => Some(reader.u64()?),
        _ => None,
    };
    Ok(Failure { errno, text: reason(text), at })
}
