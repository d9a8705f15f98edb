//! The bytes that a hostile guest or VMM follows.

use super::rings::{MEMORY, Rings};

/// The rest of an input.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// An address that is inside of the memory mostly.
    pub(crate) fn address(&mut self) -> Option<u64> {
        let at = self.u64()?;
        Some(if at.is_multiple_of(8) { at } else { at % MEMORY as u64 })
    }

    /// A place in the rings of a queue, near the beginning of one of their parts.
    pub(crate) fn ring_place(&mut self, queue: usize) -> Option<u64> {
        let (part, offset) = (self.u8()? % 3, self.u8()?);
        Some(Rings::places(queue)[usize::from(part)] + u64::from(offset))
    }
}
