//! Why a connection, or a request on it, came to nothing. Everything that talks to a server has
//! these errors.

use std::io;

use nbd::{
    Refusal, Violation,
    transmit::client::{Failure, Unfit},
};
use thiserror::Error;

use crate::dial::DialError;

/// What can go wrong with a session. The URI says on what.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{uri} failed while {doing}")]
    Lost { uri: String, doing: String, source: io::Error },
    #[error("{uri} closed the connection while this end waited for {awaited}")]
    Closed { uri: String, awaited: String },
    #[error("{uri} is no NBD server that this program can use")]
    Violation { uri: String, source: Violation },
    #[error(
        "{0} said more in plain text than that TLS may begin: somebody may be in between, and \
         nothing of it was believed"
    )]
    Early(String),
    #[error(
        "{uri} has said more than {limit} bytes before an export was entered, and this program takes \
         no more"
    )]
    Long { uri: String, limit: usize },
    #[error(
        "{uri} has {now} bytes, and had {before} on the connection before: it is another disk now"
    )]
    Changed { uri: String, before: u64, now: u64 },
    #[error("{uri} was refused by the server")]
    Refused { uri: String, source: Refusal },
    #[error("cannot {doing} on {uri}")]
    Unfit { uri: String, doing: String, source: Unfit },
    #[error("cannot {doing} on {uri}")]
    Failed { uri: String, doing: String, source: Failure },
    #[error("cannot read the input")]
    Input(#[source] io::Error),
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl ClientError {
    /// The connection is gone.
    pub fn lost(uri: &str, doing: &str, source: io::Error) -> Self {
        Self::Lost { uri: uri.to_owned(), doing: doing.to_owned(), source }
    }

    /// The connection itself is still in step: what else was asked will be answered.
    pub const fn is_of_one_request(&self) -> bool {
        matches!(self, Self::Unfit { .. } | Self::Failed { .. } | Self::Input(_) | Self::Output(_))
    }
}
