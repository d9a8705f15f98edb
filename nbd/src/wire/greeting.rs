//! The first messages of both ends ("Newstyle negotiation").

use super::{ClientFlags, HandshakeFlags, Magic, NBD_MAGIC, OLDSTYLE_MAGIC, OPTION_MAGIC, Reader};
use crate::Violation;

/// The first message of a newstyle server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// The server's flags.
    pub flags: HandshakeFlags,
}

impl Greeting {
    /// Bytes on the wire.
    pub const LEN: usize = 18;

    /// Appends the greeting.
    pub fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&self.flags.bits().to_be_bytes());
    }

    /// Parses a greeting at the front of `bytes`; `None` if it is not complete. Each magic is judged as soon as
    /// it is complete, because an oldstyle server's greeting has another length.
    ///
    /// # Errors
    /// A wrong magic, or the one of an oldstyle server.
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let mut reader = Reader::new(bytes);
        let Ok(first) = reader.u64() else { return Ok(None) };
        if first != NBD_MAGIC {
            return Err(Violation::Magic { expected: Magic::Greeting, got: first });
        }
        let Ok(second) = reader.u64() else { return Ok(None) };
        if second == OLDSTYLE_MAGIC {
            return Err(Violation::Oldstyle);
        }
        if second != OPTION_MAGIC {
            return Err(Violation::Magic { expected: Magic::Greeting, got: second });
        }
        let Ok(flags) = reader.u16() else { return Ok(None) };
        Ok(Some(Self { flags: HandshakeFlags::from_bits_retain(flags) }))
    }
}

impl ClientFlags {
    /// Bytes on the wire.
    pub const LEN: usize = 4;

    /// Appends the client's answer to a greeting.
    pub fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bits().to_be_bytes());
    }

    /// Parses the client's answer at the front of `bytes`; `None` if it is not complete.
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        Reader::new(bytes).u32().ok().map(Self::from_bits_retain)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn written_messages_parse_to_the_same_values(server: u16, client: u32) {
            let greeting = Greeting { flags: HandshakeFlags::from_bits_retain(server) };
            let mut bytes = Vec::new();
            greeting.put(&mut bytes);
            prop_assert_eq!(bytes.len(), Greeting::LEN);
            for cut in 0..bytes.len() {
                prop_assert_eq!(Greeting::peek(&bytes[..cut]), Ok(None));
            }
            prop_assert_eq!(Greeting::peek(&bytes), Ok(Some(greeting)));

            let flags = ClientFlags::from_bits_retain(client);
            bytes.clear();
            flags.put(&mut bytes);
            prop_assert_eq!(bytes.len(), ClientFlags::LEN);
            prop_assert_eq!(ClientFlags::peek(&bytes[..3]), None);
            prop_assert_eq!(ClientFlags::peek(&bytes), Some(flags));
        }
    }

    #[test]
    fn an_oldstyle_server_is_known_by_its_second_magic() {
        let mut bytes = NBD_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&OLDSTYLE_MAGIC.to_be_bytes());
        assert_eq!(Greeting::peek(&bytes), Err(Violation::Oldstyle));
    }
}
