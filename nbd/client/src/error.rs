//! Why a connection, or a request on it, came to nothing. Everything that talks to a server returns
//! these errors.

use std::io;

use nbd::{
    Refusal, Violation,
    transmit::client::{Failure, Unfit},
};
use thiserror::Error;

use crate::dial::DialError;

/// What can go wrong with a server. `name` is what the caller calls the server: mostly its URI.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke, or an answer was late (`io::ErrorKind::TimedOut`).
    #[error("{name} failed while {doing}")]
    Lost {
        /// The server.
        name: String,
        /// What this end was doing.
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The server ended the connection.
    #[error("{name} closed the connection while this end waited for {awaited}")]
    Closed {
        /// The server.
        name: String,
        /// What the server owed.
        awaited: String,
    },
    /// The server broke the protocol.
    #[error("{name} is no NBD server that this program can use")]
    Violation {
        /// The server.
        name: String,
        /// The breach.
        source: Violation,
    },
    /// Bytes in plain text came behind the answer to NBD_OPT_STARTTLS.
    #[error(
        "{0} said more in plain text than that TLS may begin: somebody may be in between, and \
         nothing of it was believed"
    )]
    Early(String),
    /// The negotiation had no end.
    #[error(
        "{name} has said more than {limit} bytes before an export was entered, and this program takes \
         no more"
    )]
    Long {
        /// The server.
        name: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The export is not the one that it was on an earlier connection.
    #[error(
        "{name} has {now} bytes, and had {before} on the connection before: it is another disk now"
    )]
    Changed {
        /// The server.
        name: String,
        /// Bytes on the earlier connection.
        before: u64,
        /// Bytes on this one.
        now: u64,
    },
    /// The server refused a question of the negotiation.
    #[error("{name} was refused by the server")]
    Refused {
        /// The server.
        name: String,
        /// The server's words.
        source: Refusal,
    },
    /// A request does not fit the export; it was not sent.
    #[error("cannot {doing} on {name}")]
    Unfit {
        /// The server.
        name: String,
        /// The request.
        doing: String,
        /// What does not fit.
        source: Unfit,
    },
    /// The server failed a request.
    #[error("cannot {doing} on {name}")]
    Failed {
        /// The server.
        name: String,
        /// The request.
        doing: String,
        /// The server's error.
        source: Failure,
    },
    /// The source of a write cannot be read.
    #[error("cannot read the input")]
    Input(#[source] io::Error),
    /// The sink of a read cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl ClientError {
    /// The connection is gone.
    pub fn lost(name: &str, doing: &str, source: io::Error) -> Self {
        Self::Lost { name: name.to_owned(), doing: doing.to_owned(), source }
    }

    /// Whether the connection itself is still in step: everything else that was asked will be
    /// answered.
    pub const fn is_of_one_request(&self) -> bool {
        matches!(self, Self::Unfit { .. } | Self::Failed { .. } | Self::Input(_) | Self::Output(_))
    }
}
