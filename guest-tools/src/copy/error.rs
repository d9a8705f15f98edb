//! Why a copy failed.

use std::io;

use nbd_client::ClientError;
use nix::errno::Errno;
use thiserror::Error;

use crate::stamp::Change;
use human::print_size;

/// An error of a copy. The names are those of the command line.
#[derive(Debug, Error)]
pub(crate) enum CopyError {
    #[error(transparent)]
    Session(#[from] ClientError),
    #[error("cannot open {name}{hint}")]
    Open { name: String, hint: &'static str, source: io::Error },
    #[error("cannot {doing} {name}")]
    Local { doing: String, name: String, source: io::Error },
    #[error("{0} is a directory: a file, a block device, an address or - is wanted")]
    Directory(String),
    #[error("{0} and {1} are the same: nothing is copied onto itself")]
    Same(String, String),
    #[error(
        "{upper} is made of {lower}: what is written to the destination destroys what is read from the \
         source; nothing was written"
    )]
    Made { upper: String, lower: String },
    #[error("{0} says other things of the disk on another connection (flags or block sizes)")]
    Unlike(String),
    #[error(
        "{file} is open in the server of {uri}, process {server}: it may be the same disk; nothing was \
         written"
    )]
    Served { file: String, uri: String, server: i32 },
    #[error("{what} would be written among the bytes: say another place for it, or --quiet")]
    Words { what: &'static str },
    #[error("{0} is read-only: the server takes no writes")]
    ReadOnly(String),
    #[error(
        "{name} is too small: it has {}, and {source_name} has {}; nothing was written",
        print_size(*room), print_size(*size)
    )]
    Small { name: String, room: u64, source_name: String, size: u64 },
    #[error("{0} {1}")]
    Changed(String, Change),
    #[error("standard input has more than the {} of {name}", print_size(*room))]
    Full { name: String, room: u64 },
    #[error("{0} asks for pieces of {1} bytes, and the other side takes {2} at most")]
    Pieces(String, u64, u64),
    #[error(
        "{0} is a stream, which can be read once: --verify needs two sides that can be read again"
    )]
    Stream(String),
    #[error("a bug in guest-tools: the copy waits, and nothing is under way")]
    Stalled,
    #[error("interrupted")]
    Interrupted,
    #[error(
        "{name} is incomplete, {done}{} bytes were copied",
        size.map_or_else(String::new, |size| format!(" of {size}"))
    )]
    Incomplete { name: String, done: u64, size: Option<u64>, source: Box<Self> },
    #[error("all of {name} was written, but it may not be durable")]
    Undurable { name: String, source: Box<Self> },
    #[error("{name} is written, but was not verified to its end")]
    Unverified { name: String, source: Box<Self> },
    #[error("{from} and {to} differ, the first byte at {at}: {there:#04x} where {due:#04x} is due")]
    Differ { from: String, to: String, at: u64, there: u8, due: u8 },
    #[error("cannot watch the copy")]
    Watch(#[source] io::Error),
}

impl CopyError {
    /// A system call on a local side failed.
    pub(super) fn local(doing: &str, name: &str, source: io::Error) -> Self {
        Self::Local { doing: doing.to_owned(), name: name.to_owned(), source }
    }

    /// Like `local`, for a range.
    pub(super) fn at(verb: &str, (at, len): (u64, u64), name: &str, source: io::Error) -> Self {
        Self::Local {
            doing: format!("{verb} {len} bytes at {at} of"),
            name: name.to_owned(),
            source,
        }
    }

    pub(super) fn watch(errno: Errno) -> Self {
        Self::Watch(errno.into())
    }

    /// Whether the connections are still usable, so that the remaining requests will be answered.
    pub(super) const fn is_in_step(&self) -> bool {
        match self {
            Self::Session(error) => error.is_of_one_request(),
            _ => true,
        }
    }
}
