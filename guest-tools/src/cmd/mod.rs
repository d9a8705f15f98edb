//! One module per command. Its `run` takes the parsed command line and executes the command.

pub(crate) mod attach;
pub(crate) mod bench;
pub(crate) mod cache;
pub(crate) mod connect;
pub(crate) mod copy;
pub(crate) mod detach;
pub(crate) mod dump;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod map;
mod pattern;
mod print;
pub(crate) mod probe;
mod question;
pub(crate) mod range;
pub(crate) mod read;
mod show;
pub(crate) mod status;
pub(crate) mod test;
pub(crate) mod trim;
pub(crate) mod write;
pub(crate) mod zero;

use std::{io, path::PathBuf};

use nbd_client::ClientError;
use thiserror::Error;

use self::pattern::Wrong;
use crate::{attach::AttachError, copy::CopyError, stamp::Change};

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Session(#[from] ClientError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("{0}")]
    Words(&'static str),
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{what} are beyond the end of the export, {size} bytes")]
    PastEnd { what: String, size: u64 },
    #[error("{len} bytes were written, and they are no good copy: {name} {change}")]
    Changed { len: u64, name: String, change: Change },
    #[error(
        "{count} of {len} bytes are not the pattern, the first at {}: {:#04x} where {:#04x} is due",
        first.at, first.found, first.due
    )]
    Pattern { first: Wrong, count: u64, len: u64 },
    #[error(
        "{uri} has no map {context:?}: either the server is without structured replies, or the \
         export without that context; 'guest-tools info' lists the contexts"
    )]
    Context { uri: String, context: String },
    #[error("{0} has TLS, and connect is a raw pipe: say nbd for nbds, or use another command")]
    Raw(String),
    #[error("{uri} does not work from here ({why}); all that was found is on standard output")]
    Unreachable { uri: String, why: String },
    #[error(
        "the disk is wrong: the byte at {at} is the first that is not as it must be; found: {found}; \
         due: {due}"
    )]
    Wrong { at: u64, found: String, due: String },
    #[error(
        "cannot test {0}: it is read-only, and --destroy writes to it; --read-only checks what an \
         earlier test wrote"
    )]
    ReadOnly(String),
    #[error("this overwrites the disk: add --destroy if its content may be lost")]
    Destroy,
    #[error("cannot measure: {0}")]
    Bench(String),
    #[error("cannot measure: {count} connections failed")]
    Connections { count: usize, source: Option<ClientError> },
    #[error("at {at} is no header of a test: 'guest-tools test --destroy' writes one")]
    NoRun { at: u64 },
    #[error(
        "{at} has the header of a test of {len} bytes, which is more than a run of this program takes \
         if nothing is said: say --length {len} if it is believed"
    )]
    LongRun { at: u64, len: u64 },
    #[error(
        "a test of {len} bytes in blocks of {block} takes more memory than there is: test a part, \
         with --offset and --length"
    )]
    Memory { len: u64, block: u64 },
    #[error("all was read and written, but it may not be durable")]
    Kept(#[source] io::Error),
    #[error("cannot print")]
    Print(#[source] io::Error),
    /// The answer to a yes-or-no question is no. Nothing more is printed.
    #[error("no")]
    No,
    /// Another process has printed the reason.
    #[error("told")]
    Told,
}

impl CommandError {
    /// 2 for a negative answer, 1 for any error.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::No => 2,
            _ => 1,
        }
    }
}
