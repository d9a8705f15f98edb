//! The headers of replies: simple replies, and chunks of structured and extended replies.

use super::{
    CHUNK_LEN, ChunkFlags, ChunkType, EXTENDED_CHUNK_LEN, EXTENDED_REPLY_MAGIC, Errno, Magic,
    Reader, SIMPLE_REPLY_LEN, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use crate::Violation;

/// A simple reply ("Simple reply message"). If `error` is 0, the data of a read follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0 for success, or an error.
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

    /// The header, as bytes.
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

    /// Parses a header at the front of `bytes`; `None` if it is not complete.
    ///
    /// # Errors
    /// A wrong magic.
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
    /// The flags, with unknown ones.
    pub flags: ChunkFlags,
    /// The type of the payload.
    pub kind: ChunkType,
    /// The request's cookie.
    pub cookie: u64,
    /// The request's offset, in bytes. Only extended chunks have it.
    pub offset: u64,
    /// The length of the payload that follows, in bytes.
    pub len: u64,
}

impl ChunkHeader {
    /// The length of the header on the wire, in bytes.
    pub const fn wire_len(extended: bool) -> usize {
        if extended { EXTENDED_CHUNK_LEN } else { CHUNK_LEN }
    }

    /// Appends the header. In a structured chunk only the lower 32 bits of the length are sent:
    /// `transmit::Replies` makes no longer chunk.
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

    /// Parses a header at the front of `bytes`; `None` if it is not complete.
    ///
    /// # Errors
    /// A wrong magic.
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

/// Puts the fields next to each other. This is the hot path: one array of fixed size, one append per header.
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
        fn written_messages_parse_to_the_same_values(
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
