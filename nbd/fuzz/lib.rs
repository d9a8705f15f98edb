//! What the fuzz targets share: the first bytes of an input choose the setting, the rest is what
//! the peer sends, at once and in pieces. Both must come to the same.

#![forbid(unsafe_code)]

use nbd::Framing;

/// How a run is set up.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Choices of the target.
    pub bits: u8,
    /// Bytes that arrive at a time in the run in pieces; at least 1.
    pub piece: usize,
}

impl Setting {
    /// Takes the setting off the front of an input.
    pub fn split(input: &[u8]) -> Option<(Self, &[u8])> {
        let (&[bits, piece], rest) = input.split_first_chunk()?;
        Some((Self { bits, piece: usize::from(piece) + 1 }, rest))
    }

    /// The two lowest bits.
    pub fn framing(self) -> Framing {
        match self.bits & 3 {
            0 => Framing::Simple,
            1 => Framing::Structured,
            _ => Framing::Extended,
        }
    }

    /// One of the other bits, from 2 to 7.
    pub fn bit(self, index: u8) -> bool {
        self.bits & (1 << index) != 0
    }
}
