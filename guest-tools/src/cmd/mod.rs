//! One command a file: `run` takes what was said and does it.

pub(crate) mod info;
mod pattern;
pub(crate) mod read;
pub(crate) mod write;

use std::{io, path::PathBuf};

use thiserror::Error;

use self::pattern::Wrong;
use crate::error::SessionError;

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{what} are beyond the end of the export, {size} bytes")]
    PastEnd { what: String, size: u64 },
    #[error(
        "{count} of {len} bytes are not the pattern, the first at {}: {:#04x} where {:#04x} is due",
        first.at, first.found, first.due
    )]
    Pattern { first: Wrong, count: u64, len: u64 },
    #[error("cannot print")]
    Print(#[source] io::Error),
}
