//! The header of a request, compact or extended ("Request message").

use super::{
    Command, CommandFlags, EXTENDED_REQUEST_LEN, EXTENDED_REQUEST_MAGIC, Magic, REQUEST_LEN,
    REQUEST_MAGIC, Reader,
};
use crate::Violation;

/// The header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The flags, with unknown ones.
    pub flags: CommandFlags,
    /// The command.
    pub command: Command,
    /// The client's number for the request. The reply repeats it.
    pub cookie: u64,
    /// The offset from the start of the export, in bytes.
    pub offset: u64,
    /// The length of the range, in bytes; with PAYLOAD_LEN that of the payload. It has 32 bits in a compact
    /// header.
    pub len: u64,
}

impl Request {
    /// The length of the header on the wire, in bytes.
    pub const fn wire_len(extended: bool) -> usize {
        if extended { EXTENDED_REQUEST_LEN } else { REQUEST_LEN }
    }

    /// Parses a header at the front of `bytes`; `None` if it is not complete.
    ///
    /// # Errors
    /// A wrong magic, as soon as its four bytes are there.
    #[inline]
    pub fn peek(bytes: &[u8], extended: bool) -> Result<Option<Self>, Violation> {
        let mut reader = Reader::new(bytes);
        let Ok(magic) = reader.u32() else { return Ok(None) };
        let expected = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        if magic != expected {
            return Err(Violation::Magic { expected: Magic::Request, got: magic.into() });
        }
        if bytes.len() < Self::wire_len(extended) {
            return Ok(None);
        }
        Ok(Some(Self {
            flags: CommandFlags::from_bits_retain(reader.u16()?),
            command: Command(reader.u16()?),
            cookie: reader.u64()?,
            offset: reader.u64()?,
            len: if extended { reader.u64()? } else { reader.u32()?.into() },
        }))
    }

    /// Appends the header. In a compact header only the lower 32 bits of the length are sent:
    /// `transmit::client` refuses longer requests before.
    pub fn put(&self, extended: bool, out: &mut Vec<u8>) {
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.flags.bits().to_be_bytes());
        out.extend_from_slice(&self.command.0.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        if extended {
            out.extend_from_slice(&self.len.to_be_bytes());
        } else {
            let [_, _, _, _, low @ ..] = self.len.to_be_bytes();
            out.extend_from_slice(&low);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn written_messages_parse_to_the_same_values(
            flags: u16, command: u16, cookie: u64, offset: u64, len: u64, extended: bool,
        ) {
            let request = Request {
                flags: CommandFlags::from_bits_retain(flags),
                command: Command(command),
                cookie,
                offset,
                len: if extended { len } else { len >> 32 },
            };
            let mut bytes = Vec::new();
            request.put(extended, &mut bytes);
            prop_assert_eq!(bytes.len(), Request::wire_len(extended));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Request::peek(&bytes[..cut], extended), Ok(None));
            }
            prop_assert_eq!(Request::peek(&bytes, extended), Ok(Some(request)));
            prop_assert!(Request::peek(&bytes, !extended).is_err());
        }
    }
}
