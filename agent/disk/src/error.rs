//! Errors of disks: what was tried, on which range, and why it failed.

use std::{fmt, io};

use thiserror::Error;

/// The class of a failure, which decides the error that the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The disk is read-only, or does not allow the request.
    Denied,
    /// The medium failed.
    Io,
    /// No space left for the data.
    NoSpace,
    /// No memory left for the data.
    NoMemory,
    /// The request is invalid for this disk (alignment, range).
    Invalid,
    /// The disk does not support the request, or not quickly.
    Unsupported,
    /// A value is too large for the disk.
    TooLarge,
    /// The disk is shutting down.
    ShutDown,
}

/// The kind of a request, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Opening the disk.
    Open,
    /// `Op::Read`.
    Read,
    /// `Op::Write`.
    Write,
    /// `Op::Flush` and `Op::Settle`.
    Flush,
    /// `Op::Trim`.
    Trim,
    /// `Op::Zero`.
    Zero,
    /// `Op::Cache`.
    Cache,
    /// `Op::Extents`.
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

/// A request that failed. `Display` prints "cannot VERB LEN bytes at offset AT".
#[derive(Debug, Error)]
pub struct DiskError {
    /// The class of the failure.
    pub kind: Kind,
    /// The kind of the request.
    pub verb: Verb,
    /// The offset in bytes.
    pub at: u64,
    /// The length in bytes.
    pub len: u64,
    /// Why it failed, if that is known.
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
    /// The error of a system call. Its error number decides the kind.
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

    /// An error without a source.
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
