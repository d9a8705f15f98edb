//! The requests to a disk.

use crate::{DiskError, NoMemory, Pages, Verb, joined};

/// A request to a disk: `at` is an offset and `len` a length, both in bytes. The range is within the disk and not
/// empty: the caller has checked this.
#[derive(Debug)]
pub enum Op<'a> {
    /// Reads `len` bytes from offset `at`. The pieces in the answer cover them exactly, in order.
    Read { at: u64, len: u32 },
    /// Writes `data` at offset `at`. With `fua` it is durable when the request is done.
    Write { at: u64, data: Data<'a>, fua: bool },
    /// Makes durable everything that was written and answered before, by any connection.
    Flush,
    /// As `Flush`, for the agent itself. No client learns whether it fails, so a loss still has to be reported by a
    /// flush.
    Settle,
    /// The range is no longer needed. It may read as anything afterwards.
    Trim { at: u64, len: u64, fua: bool },
    /// Makes the range read as zeroes. `may_trim`: a hole may be punched. `fast`: fail with `Kind::Unsupported`, at once
    /// and with nothing changed, if it would be as slow as writing zeroes.
    Zero { at: u64, len: u64, fua: bool, may_trim: bool, fast: bool },
    /// The range will be read soon.
    Cache { at: u64, len: u64 },
    /// Lists the extents of the range from `at` on, in order: at least one, and at most `len` bytes together. With `one`
    /// only the first is needed. They may have fewer bytes than `len`.
    Extents { at: u64, len: u64, one: bool },
}

/// A request without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The kind of the request.
    pub verb: Verb,
    /// Offset and length in bytes; (0, 0) for a flush.
    pub range: (u64, u64),
    /// For `Op::Zero`: fail rather than be slow.
    pub fast: bool,
    /// Whether it must be durable before it is answered (FUA).
    pub durable: bool,
}

impl Op<'_> {
    /// The request without its bytes.
    pub fn asked(&self) -> Asked {
        let fast = matches!(self, Self::Zero { fast: true, .. });
        let durable = match self {
            Self::Write { fua, .. } | Self::Trim { fua, .. } | Self::Zero { fua, .. } => *fua,
            _ => false,
        };
        Asked { verb: self.verb(), range: self.range(), fast, durable }
    }

    /// The kind of the request, for messages.
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

    /// Takes the payload of a write, if it is in pages.
    pub fn take_pages(&mut self) -> Pages {
        match self {
            Self::Write { data: Data::Pages(pages), .. } => std::mem::take(pages),
            _ => Pages::default(),
        }
    }

    /// A copy of the payload of a write; empty for other requests.
    ///
    /// # Errors
    /// `Kind::NoMemory`, if there is no memory for the copy.
    pub fn copied_data(&self) -> Result<Vec<u8>, DiskError> {
        match self {
            Self::Write { data, .. } => {
                data.copied().map_err(|lack| lack.of(self.verb(), self.range()))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Removes the first `bytes` of a trim, zero or cache request, because they are done.
    ///
    /// # Panics
    /// If it is another request: these are done in one call.
    pub fn skip(&mut self, bytes: u64) {
        match self {
            Self::Trim { at, len, .. } | Self::Zero { at, len, .. } | Self::Cache { at, len } => {
                *at += bytes;
                *len -= bytes;
            }
            _ => panic!("a disk left a {:?} request half done", self.verb()),
        }
    }

    /// Offset and length in bytes; (0, 0) for a flush.
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

/// The payload of a write.
#[derive(Debug)]
pub enum Data<'a> {
    /// Bytes in the connection's receive buffer. The disk copies them.
    Bytes(&'a [u8]),
    /// Bytes that were received into separate pages. The disk may take whole pages and keep them.
    Pages(&'a mut Pages),
}

impl Data<'_> {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Pages(pages) => pages.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in order, as contiguous slices.
    pub fn slices(&self) -> Vec<&[u8]> {
        match self {
            Self::Bytes(bytes) => vec![bytes],
            Self::Pages(pages) => pages.slices().collect(),
        }
    }

    /// A copy of the bytes.
    ///
    /// # Errors
    /// `NoMemory`, if there is no memory for the copy.
    pub fn copied(&self) -> Result<Vec<u8>, NoMemory> {
        joined(self.slices())
    }
}
