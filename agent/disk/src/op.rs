//! What a disk is asked to do.

use crate::{DiskError, NoMemory, Pages, Verb, joined};

/// One request to a disk. Ranges lie within the disk and are never empty: `session/` has checked.
#[derive(Debug)]
pub enum Op<'a> {
    /// `len` bytes from `at`; the pieces pushed to the answer cover them exactly, in order.
    Read { at: u64, len: u32 },
    /// `data.len()` bytes to `at`; with `fua` they are durable when it returns.
    Write { at: u64, data: Data<'a>, fua: bool },
    /// Everything written and answered before, by any connection, is durable when it returns.
    Flush,
    /// The same, for the agent itself: no client hears whether it fails, so what is lost is still to be
    /// told by a flush.
    Settle,
    /// The range is no longer needed; it may read as anything the disk likes afterwards.
    Trim { at: u64, len: u64, fua: bool },
    /// The range reads as zeroes afterwards. `may_trim`: a hole may be punched.
    /// `fast`: fail with `Kind::Unsupported`, at once and with nothing changed, if it would be as
    /// slow as writing zeroes.
    Zero { at: u64, len: u64, fua: bool, may_trim: bool, fast: bool },
    /// The range will be read soon.
    Cache { at: u64, len: u64 },
    /// The extents of the range from `at` on, at least one, in order, at most `len` bytes together;
    /// with `one` the first is enough. Fewer bytes than `len` is allowed.
    Extents { at: u64, len: u64, one: bool },
}

/// What a request asks for, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub verb: Verb,
    /// Offset and length in bytes; a flush is (0, 0).
    pub range: (u64, u64),
    /// A zero that is to fail rather than be slow.
    pub fast: bool,
    /// It is to be durable before it is answered (FUA).
    pub durable: bool,
}

impl Op<'_> {
    /// What it asks for.
    pub fn asked(&self) -> Asked {
        let fast = matches!(self, Self::Zero { fast: true, .. });
        let durable = match self {
            Self::Write { fua, .. } | Self::Trim { fua, .. } | Self::Zero { fua, .. } => *fua,
            _ => false,
        };
        Asked { verb: self.verb(), range: self.range(), fast, durable }
    }

    /// What is being done, for messages.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Read { .. } => Verb::Read,
            Self::Write { .. } => Verb::Write,
            Self::Flush | Self::Settle => Verb::Flush,
            Self::Trim { .. } => Verb::Trim,
            Self::Zero { .. } => Verb::Zero,
            Self::Cache { .. } => Verb::Cache,
            Self::Extents { .. } => Verb::Extents,
        }
    }

    /// A write's payload, if it is in pages.
    pub fn take_pages(&mut self) -> Pages {
        match self {
            Self::Write { data: Data::Pages(pages), .. } => std::mem::take(pages),
            _ => Pages::default(),
        }
    }

    /// A copy of a write's bytes; nothing of other requests. Without memory for it the request fails.
    ///
    /// # Errors
    /// `Kind::NoMemory`.
    pub fn copied_data(&self) -> Result<Vec<u8>, DiskError> {
        match self {
            Self::Write { data, .. } => {
                data.copied().map_err(|lack| lack.of(self.verb(), self.range()))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Takes `bytes` off the front of a trim, zero or cache request, which are done.
    ///
    /// # Panics
    /// If it is another request: those are done in one call.
    pub fn skip(&mut self, bytes: u64) {
        match self {
            Self::Trim { at, len, .. } | Self::Zero { at, len, .. } | Self::Cache { at, len } => {
                *at += bytes;
                *len -= bytes;
            }
            _ => panic!("a disk left a {:?} request half done", self.verb()),
        }
    }

    /// Offset and length in bytes; a flush is (0, 0).
    pub fn range(&self) -> (u64, u64) {
        match self {
            Self::Read { at, len } => (*at, u64::from(*len)),
            Self::Write { at, data, .. } => (*at, data.len() as u64),
            Self::Flush | Self::Settle => (0, 0),
            Self::Trim { at, len, .. }
            | Self::Zero { at, len, .. }
            | Self::Cache { at, len }
            | Self::Extents { at, len, .. } => (*at, *len),
        }
    }
}

/// The bytes of a write.
#[derive(Debug)]
pub enum Data<'a> {
    /// In the connection's receive buffer: copy what is to be kept.
    Bytes(&'a [u8]),
    /// Received into pages of their own: a disk may take whole ones and keep them.
    Pages(&'a mut Pages),
}

impl Data<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Pages(pages) => pages.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in order, as the runs they lie in.
    pub fn slices(&self) -> Vec<&[u8]> {
        match self {
            Self::Bytes(bytes) => vec![bytes],
            Self::Pages(pages) => pages.slices().collect(),
        }
    }

    /// A copy of the bytes.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn copied(&self) -> Result<Vec<u8>, NoMemory> {
        joined(self.slices())
    }
}
