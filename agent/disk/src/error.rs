//! Why a disk could not do what it was asked: what, where, and the cause.

use std::{fmt, io};

use thiserror::Error;

/// The class of a failure, as far as a client needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The disk is read-only or the operation is not allowed on it.
    Denied,
    /// The medium failed.
    Io,
    /// No space left for the data.
    NoSpace,
    /// No memory left for the data.
    NoMemory,
    /// The request makes no sense to this disk (alignment, range).
    Invalid,
    /// The disk cannot do this, or not quickly.
    Unsupported,
    /// A value is larger than the disk can take or give.
    TooLarge,
    /// The disk is going away.
    ShutDown,
}

/// What was asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Open,
    Read,
    Write,
    Flush,
    Trim,
    Zero,
    Cache,
    Extents,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::Zero => "zero",
            Self::Cache => "cache",
            Self::Extents => "list extents of",
        })
    }
}

/// A request that failed. Printed as "cannot VERB LEN bytes at offset AT"; the cause is the source.
#[derive(Debug, Error)]
pub struct DiskError {
    pub kind: Kind,
    pub verb: Verb,
    /// Bytes from the start of the disk.
    pub at: u64,
    pub len: u64,
    pub source: Option<io::Error>,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, at, len, .. } = self;
        match verb {
            Verb::Open | Verb::Flush => write!(f, "cannot {verb} the disk"),
            _ => write!(f, "cannot {verb} {len} bytes at offset {at}"),
        }
    }
}

impl DiskError {
    /// The kind follows from the system's error number.
    pub fn from_io(verb: Verb, (at, len): (u64, u64), source: io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::EROFS | libc::EBADF) => Kind::Denied,
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Kind::NoSpace,
            Some(libc::ENOMEM) => Kind::NoMemory,
            Some(libc::EINVAL) => Kind::Invalid,
            Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS) => Kind::Unsupported,
            Some(libc::EOVERFLOW) => Kind::TooLarge,
            Some(libc::ESHUTDOWN) => Kind::ShutDown,
            _ => Kind::Io,
        };
        Self { kind, verb, at, len, source: Some(source) }
    }

    /// The error and its cause in one line.
    pub fn with_cause(&self) -> String {
        match &self.source {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    pub fn new(kind: Kind, verb: Verb, (at, len): (u64, u64)) -> Self {
        Self { kind, verb, at, len, source: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_error_numbers_become_kinds() {
        let table = [
            (libc::EROFS, Kind::Denied),
            (libc::EIO, Kind::Io),
            (libc::ENOSPC, Kind::NoSpace),
            (libc::EDQUOT, Kind::NoSpace),
            (libc::EFBIG, Kind::NoSpace),
            (libc::ENOMEM, Kind::NoMemory),
            (libc::EINVAL, Kind::Invalid),
            (libc::EOPNOTSUPP, Kind::Unsupported),
            (libc::EOVERFLOW, Kind::TooLarge),
            (libc::ESHUTDOWN, Kind::ShutDown),
            (libc::ETIMEDOUT, Kind::Io),
        ];
        for (number, kind) in table {
            let source = io::Error::from_raw_os_error(number);
            assert_eq!(DiskError::from_io(Verb::Write, (0, 1), source).kind, kind);
        }
    }

    #[test]
    fn a_message_says_what_was_tried_and_where() {
        let error = |verb| DiskError::new(Kind::Io, verb, (512, 4)).to_string();
        assert_eq!(error(Verb::Read), "cannot read 4 bytes at offset 512");
        assert_eq!(error(Verb::Flush), "cannot flush the disk");
    }
}
