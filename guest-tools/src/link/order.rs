//! What is asked of a server, and what comes back: values that own their bytes, so that a request
//! whose connection breaks can be asked again on another one.

use nbd::{
    transmit::client::{Client, Failure, Unfit},
    wire::{CommandFlags, ExtentFlags},
};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Read,
    Write {
        fua: bool,
    },
    Flush,
    Trim {
        fua: bool,
    },
    /// FUA, NO_HOLE and FAST_ZERO count.
    Zero(CommandFlags),
    Cache,
    /// `one`: only the first.
    Extents {
        one: bool,
    },
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) verb: Verb,
    /// Offset and length in bytes; both 0 for a flush.
    pub(crate) at: u64,
    pub(crate) len: u64,
    /// `len` bytes to write; or room for those that are read, which is made `len` bytes long.
    pub(crate) bytes: Vec<u8>,
    /// The caller's own; comes back as it went.
    pub(crate) tag: u64,
}

/// A run of one status in `base:allocation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) flags: ExtentFlags,
}

/// A request that was answered.
#[derive(Debug)]
pub(crate) struct Done {
    /// With what was read in its `bytes`.
    pub(crate) order: Order,
    /// Parts of a read that the server said were zeroes, offset and length; they are in `bytes` too.
    pub(crate) holes: Vec<(u64, u64)>,
    /// The answer to `Extents`.
    pub(crate) extents: Vec<Extent>,
    /// What the server said went wrong. Then nothing else counts.
    pub(crate) result: Result<(), Failure>,
}

impl Order {
    pub(crate) const fn read(at: u64, len: u64, room: Vec<u8>) -> Self {
        Self { verb: Verb::Read, at, len, bytes: room, tag: 0 }
    }

    pub(crate) const fn write(at: u64, bytes: Vec<u8>, fua: bool) -> Self {
        let len = bytes.len() as u64;
        Self { verb: Verb::Write { fua }, at, len, bytes, tag: 0 }
    }

    /// Any request without payload.
    pub(crate) const fn bare(verb: Verb, at: u64, len: u64) -> Self {
        Self { verb, at, len, bytes: Vec::new(), tag: 0 }
    }

    pub(crate) fn tagged(self, tag: u64) -> Self {
        Self { tag, ..self }
    }

    /// Puts the header into `out` and says the cookie.
    pub(super) fn put(&self, client: &mut Client, out: &mut Vec<u8>) -> Result<u64, Unfit> {
        let Self { verb, at, len, .. } = *self;
        match verb {
            Verb::Read => client.read(at, len, false, out),
            Verb::Write { fua } => client.write(at, len, fua, out),
            Verb::Flush => client.flush(out),
            Verb::Trim { fua } => client.trim(at, len, fua, out),
            Verb::Zero(flags) => client.zero(at, len, flags, out),
            Verb::Cache => client.cache(at, len, out),
            Verb::Extents { one } => client.extents(at, len, one, out),
        }
    }

    /// For messages: "cannot ... on URI".
    pub(crate) fn name(&self) -> String {
        let what = match self.verb {
            Verb::Read => "read",
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
        Self { order, holes: Vec::new(), extents: Vec::new(), result: Ok(()) }
    }

    /// The machine has seen to it that the bytes lie inside.
    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        if let Some(place) = self.place(at, bytes.len() as u64) {
            place.copy_from_slice(bytes);
        }
    }

    pub(super) fn put_hole(&mut self, at: u64, len: u64) {
        if let Some(place) = self.place(at, len) {
            place.fill(0);
            self.holes.push((at, len));
        }
    }

    /// Where a part of what is read belongs.
    pub(super) fn place(&mut self, at: u64, len: u64) -> Option<&mut [u8]> {
        let start = usize::try_from(at.checked_sub(self.order.at)?).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        self.order.bytes.get_mut(start..end)
    }
}
