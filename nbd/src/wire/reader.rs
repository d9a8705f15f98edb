//! The only way in which this crate parses bytes of a peer.

use thiserror::Error;

use super::MAX_STRING;

/// A message is shorter or longer than its fields say, or a string in it is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Truncated {
    /// A field reaches past the end.
    #[error("{need} bytes needed where {have} are left")]
    Short {
        /// The length of the field, in bytes.
        need: usize,
        /// The bytes that are left of the message.
        have: usize,
    },
    /// So many bytes follow the last field.
    #[error("{0} bytes too many")]
    Long(usize),
    /// A string of more than 4096 bytes.
    #[error("a string of {0} bytes, over the limit of 4096")]
    StringTooLong(usize),
    /// A string that has a NUL or is not UTF-8 ("Values").
    #[error("a string that is not UTF-8 without NUL")]
    StringUnfit,
}

/// Takes fields off the front of a message.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// Fewer bytes are left.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let short = Truncated::Short { need: len, have: self.0.len() };
        let (head, tail) = self.0.split_at_checked(len).ok_or(short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let short = Truncated::Short { need: N, have: self.0.len() };
        let (head, tail) = self.0.split_first_chunk().ok_or(short)?;
        self.0 = tail;
        Ok(*head)
    }

    /// A big-endian number of 16 bits.
    ///
    /// # Errors
    /// Fewer bytes are left.
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_be_bytes)
    }

    /// A big-endian number of 32 bits.
    ///
    /// # Errors
    /// Fewer bytes are left.
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_be_bytes)
    }

    /// A big-endian number of 64 bits.
    ///
    /// # Errors
    /// Fewer bytes are left.
    pub fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next `len` bytes as a string of the protocol: at most 4096 bytes, UTF-8, without NUL ("Values").
    ///
    /// # Errors
    /// The message is too short, or the string is not allowed.
    pub fn string(&mut self, len: usize) -> Result<&'a str, Truncated> {
        let bytes = self.take(len)?;
        if len > MAX_STRING {
            return Err(Truncated::StringTooLong(len));
        }
        match str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(Truncated::StringUnfit),
        }
    }

    /// A 32-bit length and a string of that length.
    ///
    /// # Errors
    /// The message is too short, or the string is not allowed.
    pub fn counted_string(&mut self) -> Result<&'a str, Truncated> {
        let len = self.u32()?;
        self.string(len.try_into().unwrap_or(usize::MAX))
    }

    /// The bytes that are left.
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Checks that the message ends here.
    ///
    /// # Errors
    /// Bytes are left.
    pub fn finish(self) -> Result<(), Truncated> {
        if self.0.is_empty() { Ok(()) } else { Err(Truncated::Long(self.0.len())) }
    }
}
