//! How a session ends: by itself, or because the agent's life does.

use std::{fmt, io, sync::Arc};

use nbd::{Refusal, Violation};

use crate::{access::Denied, tls, transport};

/// The phase of the agent's life. It only advances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Life {
    Serving,
    /// Accept nothing new: answer options with ERR_SHUTDOWN, finish the requests in flight, flush, close.
    Draining,
    /// Close now.
    Ending,
}

/// How a session ended; for the audit line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum End {
    /// Access was denied by a gate or by a limit on connections. `export` is set if the denial was for one export.
    Denied { denied: Denied, export: Option<String> },
    /// The client sent NBD_CMD_DISC.
    Disconnected,
    /// The client sent NBD_OPT_ABORT.
    Aborted,
    /// The client asked for an export by NBD_OPT_EXPORT_NAME, which can be refused only by closing.
    Refused(Refusal),
    /// The client closed without announcing it.
    Closed,
    /// The client closed in the middle of a message.
    ClosedInside,
    /// The negotiation exceeded `handshake_timeout`.
    TooSlow,
    /// The client broke the protocol.
    Violation(Violation),
    /// The TLS handshake failed, or the data inside TLS did not come from the client.
    Tls(tls::Failure),
    /// The client did not send the rest of a request in time.
    Stalled,
    /// The client sent a write of this many bytes, which the disk's `write_cutoff` does not allow.
    TooLong(u64),
    /// The connection failed.
    Failed(io::ErrorKind),
    /// The agent shut down after it had finished the requests in flight.
    ShutDown,
    /// The agent shut down, and this session took too long to finish.
    Cut,
    /// The client's permission to stay ended, for this reason.
    Revoked(Arc<str>),
}

impl End {
    pub(super) fn from_receive(error: &io::Error) -> Self {
        match transport::failure(error) {
            Some(failure) => Self::Tls(failure),
            None => Self::Failed(error.kind()),
        }
    }

    /// A client that is gone is not an error of the connection.
    pub(super) fn from_send(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            kind => Self::Failed(kind),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { denied, .. } => write!(f, "was denied: {denied}"),
            Self::Disconnected => f.write_str("disconnected"),
            Self::Aborted => f.write_str("aborted the negotiation"),
            Self::Refused(refusal) => write!(f, "was refused: {refusal}"),
            Self::Closed => f.write_str("closed the connection"),
            Self::ClosedInside => f.write_str("closed in the middle of a message"),
            Self::TooSlow => f.write_str("did not finish negotiating in time"),
            Self::Violation(violation) => write!(f, "broke the protocol: {violation}"),
            Self::Tls(failure) => write!(f, "TLS failed: {failure}"),
            Self::Stalled => f.write_str("cut off: the rest of a request did not come in time"),
            Self::TooLong(len) => write!(f, "cut off: a write of {len} bytes is too long here"),
            Self::Failed(kind) => write!(f, "connection failed: {kind}"),
            Self::ShutDown => f.write_str("shut down"),
            Self::Cut => f.write_str("cut off at shutdown"),
            Self::Revoked(why) => write!(f, "cut off: {why}"),
        }
    }
}
