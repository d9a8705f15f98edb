//! Replies in the framing that was agreed: simple, structured or extended.

use crate::{
    AgreedContext, Framing, Terms,
    gather::{Gather, Payload},
    wire::{ChunkFlags, ChunkHeader, ChunkType, Errno, ExtentFlags, Request, SimpleReply},
};

/// The most extents of one context in one reply: 64 KiB of compact descriptors.
const MAX_EXTENTS: usize = 8192;

/// A run of bytes that were read.
#[derive(Debug)]
pub enum ReadPiece<P> {
    /// Data.
    Data(P),
    /// A hole of so many bytes, which read as zeroes.
    Hole(u64),
}

/// A run of bytes with one status in a metadata context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The length, in bytes.
    pub len: u64,
    /// The status. Each context gives the bits a meaning of its own; the named ones are those of
    /// `base:allocation`. For another context use `ExtentFlags::from_bits_retain`.
    pub flags: ExtentFlags,
}

/// Appends replies to a [`Gather`], in the framing of the terms.
#[derive(Debug)]
pub struct Replies<'a, P> {
    /// The queue that the replies go to.
    pub out: &'a mut Gather<P>,
    /// The rules of the transmission.
    pub terms: &'a Terms,
}

impl<P: Payload> Replies<'_, P> {
    /// Answers a request that succeeded and has no data.
    pub fn done(&mut self, request: &Request) {
        if self.terms.framing == Framing::Extended {
            self.chunk(request, ChunkFlags::DONE, ChunkType::NONE, 0);
        } else {
            // "Simple reply message": allowed for everything but reads in structured mode too.
            self.simple(request, Errno(0));
        }
    }

    /// Answers a request that failed. At most 1024 bytes of the text are sent, and none in a simple reply.
    pub fn error(&mut self, request: &Request, errno: Errno, text: &str) {
        if self.terms.framing == Framing::Simple {
            return self.simple(request, errno);
        }
        let text = &text.as_bytes().get(..text.floor_char_boundary(1024)).unwrap_or_default();
        let text_len = u16::try_from(text.len()).unwrap_or(0);
        self.chunk(request, ChunkFlags::DONE, ChunkType::ERROR, 6 + u64::from(text_len));
        self.out.small(|out| {
            out.extend_from_slice(&errno.0.to_be_bytes());
            out.extend_from_slice(&text_len.to_be_bytes());
            out.extend_from_slice(text);
        });
    }

    /// Answers NBD_CMD_READ. The pieces have to cover the request exactly, in order: otherwise the client
    /// takes data for headers. With `df` they go in one chunk, holes as zeroes, unless all of it is one hole.
    pub fn read(
        &mut self,
        request: &Request,
        df: bool,
        mut pieces: impl ExactSizeIterator<Item = ReadPiece<P>>,
    ) {
        if self.terms.framing == Framing::Simple {
            self.simple(request, Errno(0));
            return self.bytes(pieces);
        }
        if request.len == 0 {
            return self.chunk(request, ChunkFlags::DONE, ChunkType::NONE, 0);
        }
        if pieces.len() == 1 {
            // The usual case.
            return match pieces.next() {
                Some(ReadPiece::Data(data)) => {
                    self.data_chunk(request, ChunkFlags::DONE, request.offset, request.len);
                    self.out.payload(data);
                }
                Some(ReadPiece::Hole(len)) => {
                    self.hole_chunk(request, ChunkFlags::DONE, request.offset, len);
                }
                None => {}
            };
        }
        if df {
            self.data_chunk(request, ChunkFlags::DONE, request.offset, request.len);
            return self.bytes(pieces);
        }
        let end = request.offset.saturating_add(request.len);
        let mut at = request.offset;
        let mut run: Vec<P> = Vec::new();
        for piece in pieces {
            match piece {
                ReadPiece::Data(data) => run.push(data),
                ReadPiece::Hole(len) => {
                    at = self.data_run(request, &mut run, at, end);
                    let next = at.saturating_add(len);
                    self.hole_chunk(request, done_if(next >= end), at, len);
                    at = next;
                }
            }
        }
        self.data_run(request, &mut run, at, end);
    }

    /// Answers NBD_CMD_BLOCK_STATUS: one chunk for each agreed context, whose extents `extents_of`
    /// gives. They begin at the request's offset and follow each other. Neighbours with the same flags
    /// are merged, and what reaches past the request is cut off. With `one` only the first extent of each
    /// context is sent.
    pub fn extents<I>(
        &mut self,
        request: &Request,
        one: bool,
        mut extents_of: impl FnMut(&AgreedContext) -> I,
    ) where
        I: IntoIterator<Item = Extent>,
    {
        let last = self.terms.contexts.len().saturating_sub(1);
        for (index, context) in self.terms.contexts.iter().enumerate() {
            let merged = merge(request.len, one, extents_of(context));
            self.status_chunk(request, done_if(index == last), context.id, merged);
        }
    }

    fn status_chunk(
        &mut self,
        request: &Request,
        flags: ChunkFlags,
        id: u32,
        extents: Vec<Extent>,
    ) {
        let count = extents.len();
        if self.terms.framing == Framing::Extended {
            let len = 8 + 16 * count as u64;
            self.chunk(request, flags, ChunkType::BLOCK_STATUS_EXT, len);
            let count = u32::try_from(count).unwrap_or_default();
            self.out.small(|out| {
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&count.to_be_bytes());
                for Extent { len, flags } in extents {
                    out.extend_from_slice(&len.to_be_bytes());
                    out.extend_from_slice(&u64::from(flags.bits()).to_be_bytes());
                }
            });
        } else {
            let len = 4 + 8 * count as u64;
            self.chunk(request, flags, ChunkType::BLOCK_STATUS, len);
            self.out.small(|out| {
                out.extend_from_slice(&id.to_be_bytes());
                for Extent { len, flags } in extents {
                    // Clipped to the request, whose length has 32 bits here.
                    let len = u32::try_from(len).unwrap_or(u32::MAX);
                    out.extend_from_slice(&len.to_be_bytes());
                    out.extend_from_slice(&flags.bits().to_be_bytes());
                }
            });
        }
    }

    fn simple(&mut self, request: &Request, error: Errno) {
        let reply = SimpleReply { error, cookie: request.cookie };
        self.out.small(|out| reply.put(out));
    }

    fn chunk(&mut self, request: &Request, flags: ChunkFlags, kind: ChunkType, len: u64) {
        self.chunk_with(request, flags, kind, len, &[]);
    }

    /// A header, and `fields` right after it.
    fn chunk_with(
        &mut self,
        request: &Request,
        flags: ChunkFlags,
        kind: ChunkType,
        len: u64,
        fields: &[u8],
    ) {
        let header =
            ChunkHeader { flags, kind, cookie: request.cookie, offset: request.offset, len };
        let extended = self.terms.framing == Framing::Extended;
        self.out.small(|out| {
            header.put(extended, out);
            out.extend_from_slice(fields);
        });
    }

    fn data_chunk(&mut self, request: &Request, flags: ChunkFlags, at: u64, len: u64) {
        self.chunk_with(request, flags, ChunkType::OFFSET_DATA, 8 + len, &at.to_be_bytes());
    }

    fn hole_chunk(&mut self, request: &Request, flags: ChunkFlags, at: u64, len: u64) {
        // A read has at most 32 bits.
        let short = u32::try_from(len).unwrap_or(u32::MAX);
        let mut fields = [0; 12];
        fields[..8].copy_from_slice(&at.to_be_bytes());
        fields[8..].copy_from_slice(&short.to_be_bytes());
        self.chunk_with(request, flags, ChunkType::OFFSET_HOLE, 12, &fields);
    }

    /// Sends a run of data as one chunk. Returns the offset of the next one.
    fn data_run(&mut self, request: &Request, run: &mut Vec<P>, at: u64, end: u64) -> u64 {
        let len: u64 = run.iter().map(|data| data.as_ref().len() as u64).sum();
        if len == 0 {
            return at;
        }
        let next = at.saturating_add(len);
        self.data_chunk(request, done_if(next >= end), at, len);
        for data in run.drain(..) {
            self.out.payload(data);
        }
        next
    }

    fn bytes(&mut self, pieces: impl Iterator<Item = ReadPiece<P>>) {
        for piece in pieces {
            match piece {
                ReadPiece::Data(data) => self.out.payload(data),
                ReadPiece::Hole(len) => self.out.zeroes(len),
            }
        }
    }
}

/// Cuts extents to a request of `len` bytes, merges neighbours that are alike, and stops after one or
/// `MAX_EXTENTS` of them.
fn merge(len: u64, one: bool, extents: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let most = if one { 1 } else { MAX_EXTENTS };
    let mut merged: Vec<Extent> = Vec::new();
    let mut left = len;
    for mut extent in extents {
        extent.len = extent.len.min(left);
        if extent.len == 0 {
            continue;
        }
        let is_full = merged.len() == most;
        match merged.last_mut() {
            Some(last) if last.flags == extent.flags => last.len += extent.len,
            Some(_) if is_full => break,
            _ => merged.push(extent),
        }
        left -= extent.len;
    }
    merged
}

const fn done_if(last: bool) -> ChunkFlags {
    if last { ChunkFlags::DONE } else { ChunkFlags::empty() }
}

#[cfg(test)]
mod tests;
