//! Why a connection, or a request on it, failed. Everything that talks to a server returns these
//! errors.

use std::io;

use nbd::{
    Refusal, Violation,
    transmit::client::{Failure, Unfit},
};
use thiserror::Error;

use crate::dial::DialError;

/// An error of a connection. `name` is what the caller calls the server, usually its URI.
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
    /// Bytes in plain text came after the answer to NBD_OPT_STARTTLS.
    #[error(
        "{0} said more in plain text than that TLS may begin: somebody may be in between, and \
         nothing of it was believed"
    )]
    Early(String),
    /// The negotiation exceeded the limit on received bytes.
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
    /// The export differs from that of an earlier connection.
    #[error(
        "{name} has {now} bytes, and had {before} on the connection before: it is another disk now"
    )]
    Changed {
        /// The server.
        name: String,
        /// The size on the earlier connection, in bytes.
        before: u64,
        /// The size on this connection, in bytes.
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
    /// The connection broke.
    pub fn lost(name: &str, doing: &str, source: io::Error) -> Self {
        Self::Lost { name: name.to_owned(), doing: doing.to_owned(), source }
    }

    /// Whether the connection itself is still usable, so that all other requests will be answered.
    pub const fn is_of_one_request(&self) -> bool {
        matches!(self, Self::Unfit { .. } | Self::Failed { .. } | Self::Input(_) | Self::Output(_))
    }
}
