//! Headers of replies: simple ones, and chunks of structured and extended ones.

use super::{
    CHUNK_LEN, ChunkFlags, ChunkType, EXTENDED_CHUNK_LEN, EXTENDED_REPLY_MAGIC, Errno, Magic,
    Reader, SIMPLE_REPLY_LEN, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use crate::Violation;

/// A simple reply ("Simple reply message"); after it follow a read's bytes if `error` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0 or an error.
    pub error: Errno,
    /// The request's cookie.
    pub cookie: u64,
}

impl SimpleReply {
    /// Appends the header.
    #[inline]
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }

    /// The header.
    #[inline]
    pub fn bytes(&self) -> [u8; SIMPLE_REPLY_LEN] {
        let mut bytes = [0; SIMPLE_REPLY_LEN];
        put_fields(
            &mut bytes,
            [
                &SIMPLE_REPLY_MAGIC.to_be_bytes()[..],
                &self.error.0.to_be_bytes(),
                &self.cookie.to_be_bytes(),
            ],
        );
        bytes
    }

    /// Reads a header off the front; `None` until it is all there.
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let mut reader = Reader::new(bytes);
        let Ok(magic) = reader.u32() else { return Ok(None) };
        if magic != SIMPLE_REPLY_MAGIC {
            return Err(Violation::Magic { expected: Magic::Reply, got: magic.into() });
        }
        if bytes.len() < SIMPLE_REPLY_LEN {
            return Ok(None);
        }
        Ok(Some(Self { error: Errno(reader.u32()?), cookie: reader.u64()? }))
    }
}

/// The header of a chunk ("Structured reply message", "Extended reply message").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// DONE and what is unknown.
    pub flags: ChunkFlags,
    /// What the payload is.
    pub kind: ChunkType,
    /// The request's cookie.
    pub cookie: u64,
    /// The request's offset; only extended chunks carry it.
    pub offset: u64,
    /// Bytes of payload that follow.
    pub len: u64,
}

impl ChunkHeader {
    /// The header's size on the wire.
    pub const fn wire_len(extended: bool) -> usize {
        if extended { EXTENDED_CHUNK_LEN } else { CHUNK_LEN }
    }

    /// Appends the header. In a structured one a length over 32 bits is cut: no chunk is that
    /// long (`transmit::replies`).
    #[inline]
    pub fn put(&self, extended: bool, out: &mut Vec<u8>) {
        let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        if extended {
            let mut bytes = [0; EXTENDED_CHUNK_LEN];
            put_fields(
                &mut bytes,
                [
                    &magic.to_be_bytes()[..],
                    &self.flags.bits().to_be_bytes(),
                    &self.kind.0.to_be_bytes(),
                    &self.cookie.to_be_bytes(),
                    &self.offset.to_be_bytes(),
                    &self.len.to_be_bytes(),
                ],
            );
            out.extend_from_slice(&bytes);
        } else {
            let [_, _, _, _, len @ ..] = self.len.to_be_bytes();
            let mut bytes = [0; CHUNK_LEN];
            put_fields(
                &mut bytes,
                [
                    &magic.to_be_bytes()[..],
                    &self.flags.bits().to_be_bytes(),
                    &self.kind.0.to_be_bytes(),
                    &self.cookie.to_be_bytes(),
                    &len,
                ],
            );
            out.extend_from_slice(&bytes);
        }
    }

    /// Reads a header off the front; `None` until it is all there.
    pub fn peek(bytes: &[u8], extended: bool) -> Result<Option<Self>, Violation> {
        let mut reader = Reader::new(bytes);
        let Ok(magic) = reader.u32() else { return Ok(None) };
        if magic != if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC } {
            return Err(Violation::Magic { expected: Magic::Reply, got: magic.into() });
        }
        if bytes.len() < Self::wire_len(extended) {
            return Ok(None);
        }
        Ok(Some(Self {
            flags: ChunkFlags::from_bits_retain(reader.u16()?),
            kind: ChunkType(reader.u16()?),
            cookie: reader.u64()?,
            offset: if extended { reader.u64()? } else { 0 },
            len: if extended { reader.u64()? } else { reader.u32()?.into() },
        }))
    }
}

/// Lays fields side by side. One fixed array and one append a header: this is the hot path.
#[inline]
fn put_fields<const N: usize, const M: usize>(bytes: &mut [u8; N], fields: [&[u8]; M]) {
    let mut rest = &mut bytes[..];
    for field in fields {
        let (place, after) = rest.split_at_mut(field.len());
        place.copy_from_slice(field);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_one_end_writes_the_other_reads(
            flags: u16, kind: u16, cookie: u64, offset: u64, len: u64, error: u32, extended: bool,
        ) {
            let chunk = ChunkHeader {
                flags: ChunkFlags::from_bits_retain(flags),
                kind: ChunkType(kind),
                cookie,
                offset: if extended { offset } else { 0 },
                len: if extended { len } else { len >> 32 },
            };
            let mut bytes = Vec::new();
            chunk.put(extended, &mut bytes);
            prop_assert_eq!(bytes.len(), ChunkHeader::wire_len(extended));
            prop_assert_eq!(ChunkHeader::peek(&bytes, extended), Ok(Some(chunk)));
            prop_assert_eq!(ChunkHeader::peek(&bytes[..bytes.len() - 1], extended), Ok(None));

            let simple = SimpleReply { error: Errno(error), cookie };
            bytes.clear();
            simple.put(&mut bytes);
            prop_assert_eq!(SimpleReply::peek(&bytes), Ok(Some(simple)));
        }
    }
}
