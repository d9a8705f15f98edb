//! Requests and their answers. They are values that own their bytes, so that a request whose connection
//! breaks can be sent again on another one.

use nbd::{
    transmit::client::{Client as Machine, Failure, Unfit},
    wire::{CommandFlags, ExtentFlags},
};

/// The most holes that are recorded per read.
const MOST_HOLES: usize = 256;

/// The most extents that are kept per answer, of up to 2^20 in one. The memory has to suffice for
/// several answers.
const MOST_EXTENTS: usize = 1 << 17;

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Reads.
    Read,
    /// Reads in one piece (DF), at most 64 KiB.
    ReadWhole,
    /// Writes the bytes of the order.
    Write {
        /// The server answers once the bytes are durable.
        fua: bool,
    },
    /// Makes durable everything that was answered before.
    Flush,
    /// Tells the server that the range is no longer needed.
    Trim {
        /// The server answers once the change is durable.
        fua: bool,
    },
    /// Makes the range read as zeroes. The flags FUA, NO_HOLE and FAST_ZERO have an effect.
    Zero(CommandFlags),
    /// Asks the server to prefetch the range.
    Cache,
    /// Asks for the extents of the range.
    Extents {
        /// Ask for the first extent only.
        one: bool,
    },
}

impl Verb {
    /// Whether the answer has a payload.
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWhole)
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct Order {
    /// The kind of the request.
    pub verb: Verb,
    /// The offset in bytes; 0 for a flush.
    pub at: u64,
    /// The length in bytes; 0 for a flush.
    pub len: u64,
    /// The `len` bytes to write, or a buffer for a read, which is resized to `len` bytes.
    pub bytes: Vec<u8>,
    /// The caller's own number. It is returned unchanged.
    pub tag: u64,
}

/// A range with one status in a metadata context, usually `base:allocation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The offset in bytes.
    pub at: u64,
    /// The length in bytes.
    pub len: u64,
    /// The status.
    pub flags: ExtentFlags,
}

/// A request that was answered.
#[derive(Debug)]
pub struct Done {
    /// The request, with the data of a read in its `bytes`.
    pub order: Order,
    /// Parts of a read that the server reported as zeroes: offset and length, not overlapping. They are
    /// in `bytes` too. The list is incomplete if there are very many.
    pub holes: Vec<(u64, u64)>,
    /// The answer to `Extents`, which may cover only the first part of the range. Neighbours with the
    /// same status are merged.
    pub extents: Vec<Extent>,
    /// Further extents arrived that were not kept.
    cut: bool,
    /// The server's error. If there is one, no other field counts.
    pub result: Result<(), Failure>,
}

impl Order {
    /// A read of `len` bytes at `at`. `room` is a buffer to reuse, with any content.
    pub const fn read(at: u64, len: u64, room: Vec<u8>) -> Self {
        Self { verb: Verb::Read, at, len, bytes: room, tag: 0 }
    }

    /// A write of the bytes at `at`.
    pub const fn write(at: u64, bytes: Vec<u8>, fua: bool) -> Self {
        let len = bytes.len() as u64;
        Self { verb: Verb::Write { fua }, at, len, bytes, tag: 0 }
    }

    /// Any request without payload.
    pub const fn bare(verb: Verb, at: u64, len: u64) -> Self {
        Self { verb, at, len, bytes: Vec::new(), tag: 0 }
    }

    /// Sets the caller's tag.
    pub fn tagged(self, tag: u64) -> Self {
        Self { tag, ..self }
    }

    /// Appends the header to `out` and returns the cookie.
    pub(super) fn put(&self, client: &mut Machine, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        let Self { verb, at, len, .. } = *self;
        match verb {
            Verb::Read | Verb::ReadWhole => client.read(at, len, verb == Verb::ReadWhole, out),
            Verb::Write { fua } => client.write(at, len, fua, out),
            Verb::Flush => client.flush(out),
            Verb::Trim { fua } => client.trim(at, len, fua, out),
            Verb::Zero(flags) => client.zero(at, len, flags, out),
            Verb::Cache => client.cache(at, len, out),
            Verb::Extents { one } => client.extents(at, len, one, out),
        }
    }

    /// The request for messages, as in "cannot ... on URI".
    pub fn name(&self) -> String {
        let what = match self.verb {
            Verb::Read | Verb::ReadWhole => "read",
            Verb::Write { .. } => "write",
            Verb::Flush => return "flush".to_owned(),
            Verb::Trim { .. } => "trim",
            Verb::Zero(_) => "zero",
            Verb::Cache => "cache",
            Verb::Extents { .. } => "ask for the extents of",
        };
        format!("{what} {} bytes at {}", self.len, self.at)
    }
}

impl Done {
    pub(super) const fn new(order: Order) -> Self {
        Self { order, holes: Vec::new(), extents: Vec::new(), cut: false, result: Ok(()) }
    }

    /// Stores bytes of a read. The machine has checked that they lie inside.
    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        if let Some(place) = self.place(at, bytes.len() as u64) {
            place.copy_from_slice(bytes);
        }
    }

    pub(super) fn put_hole(&mut self, at: u64, len: u64) {
        if let Some(place) = self.place(at, len) {
            place.fill(0);
            let more = self.holes.len() < MOST_HOLES;
            match self.holes.last_mut() {
                Some((start, before)) if *start + *before == at => *before += len,
                // Each hole is compared with each block, and a server may report holes of one byte.
                _ if more => self.holes.push((at, len)),
                _ => {}
            }
        }
    }

    /// Records an extent. If there is no room, the last ones are left out: a server may answer less
    /// than it was asked, and callers then ask for the rest.
    pub(super) fn put_extent(&mut self, extent: Extent) {
        if self.cut {
            return;
        }
        let more = self.extents.len() < MOST_EXTENTS;
        match self.extents.last_mut() {
            Some(last) if last.flags == extent.flags => last.len += extent.len,
            _ if more => self.extents.push(extent),
            _ => self.cut = true,
        }
    }

    /// The part of the buffer that a range of a read belongs to.
    pub(super) fn place(&mut self, at: u64, len: u64) -> Option<&mut [u8]> {
        let start = usize::try_from(at.checked_sub(self.order.at)?).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        self.order.bytes.get_mut(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_answer_take_bounded_memory() {
        let len = 1 << 20;
        let mut done = Done::new(Order::read(0, len, vec![1; 1 << 20]));
        for at in (0..len).step_by(2) {
            done.put_hole(at, 1);
        }
        assert_eq!(done.holes.len(), MOST_HOLES);
        assert!((0..1 << 20).all(|at| done.order.bytes[at] == u8::from(at % 2 == 1)));

        let mut done = Done::new(Order::bare(Verb::Extents { one: false }, 0, len));
        for at in 0..len {
            let flags = ExtentFlags::from_bits_retain(u32::try_from(at / 2 % 2).unwrap());
            done.put_extent(Extent { at, len: 1, flags });
        }
        assert_eq!(done.extents.len(), MOST_EXTENTS);
        let end = done.extents.iter().fold(0, |end, extent| {
            assert_eq!(extent.at, end);
            end + extent.len
        });
        assert_eq!(end, 2 * MOST_EXTENTS as u64);
    }
}
