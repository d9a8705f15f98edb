//! What a caller of the client is told: events, errors of the server, and requests that are not sent.

use std::fmt;

use thiserror::Error;

use crate::wire::{Errno, ExtentFlags};

/// A part of a server's answer to a request. Offsets count from the start of the export, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// Data that was read, a slice of the input.
    Data {
        /// The request.
        cookie: u64,
        /// Their offset.
        at: u64,
        /// At least one byte.
        bytes: &'a [u8],
    },
    /// A hole that was read: zeroes that were not sent.
    Hole {
        /// The request.
        cookie: u64,
        /// Their offset.
        at: u64,
        /// The length, in bytes. At least 1.
        len: u64,
    },
    /// A run of bytes with one status in a metadata context. The first extent of a context begins at
    /// the request's offset, each other one where its predecessor ends. The last one may reach beyond
    /// the request, but not beyond the export. All extents of a context come before those of the next.
    Extent {
        /// The request.
        cookie: u64,
        /// Its offset.
        at: u64,
        /// The length, in bytes. At least 1.
        len: u64,
        /// The id of the context whose status it is ([`Terms::contexts`](crate::Terms::contexts)).
        context: u32,
        /// The lower 32 bits of the status. Each context gives them a meaning of its own; the named ones
        /// are those of `base:allocation`.
        flags: ExtentFlags,
    },
    /// The end of a request. If it failed, the data that came before is not valid.
    Done {
        /// The request.
        cookie: u64,
        /// Success, or the server's error.
        result: Result<(), Failure>,
    },
}

/// A server's error for a request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Failure {
    /// The error number. A number without a name means EINVAL ("Error values").
    pub errno: Errno,
    /// The text for people; printable; may be empty.
    pub text: String,
    /// The offset of the error, if the server told it.
    pub at: Option<u64>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.errno)?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        self.at.map_or(Ok(()), |at| write!(f, " (at offset {at})"))
    }
}

/// Why a request is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The range does not lie within the export.
    #[error("offset {at} and length {len} reach past the end of the export, {size} bytes")]
    PastEnd {
        /// The offset, in bytes.
        at: u64,
        /// The length, in bytes.
        len: u64,
        /// The size of the export, in bytes.
        size: u64,
    },
    /// Offset or length is not a multiple of the minimum block size.
    #[error("offset {at} and length {len} are not multiples of the block size, {minimum} bytes")]
    Unaligned {
        /// The offset, in bytes.
        at: u64,
        /// The length, in bytes.
        len: u64,
        /// The export's minimum block size, in bytes.
        minimum: u32,
    },
    /// The request is longer than the command allows.
    #[error("{len} bytes in one request, over the limit of {maximum}")]
    TooLong {
        /// The length, in bytes.
        len: u64,
        /// The limit for this command, in bytes.
        maximum: u64,
    },
    /// The length is 0, whose effect is not specified.
    #[error("a request for no bytes")]
    Empty,
    /// The export is read-only.
    #[error("the export is read-only")]
    ReadOnly,
    /// The server did not offer the command or its flag.
    #[error("the server does not offer {0}")]
    NotOffered(&'static str),
}
