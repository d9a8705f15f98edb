//! One client from accept to the end: negotiate, transmit, close, and the audit line.
//!
//! `serve` calls `run` with what a listener gave.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{exports::Exports, peer::Peer};

/// What all sessions of an agent share.
#[derive(Debug)]
pub struct Rules {
    pub exports: Arc<dyn Exports>,
    /// From accept to the end of the negotiation; `--timeout`.
    pub handshake_timeout: Duration,
    /// Refuse every write; `--readonly`.
    pub read_only: bool,
    /// Most requests of a connection that block at once (`--threads`); at least 1.
    pub threads: usize,
}

/// Where the agent is in its life, as its sessions need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    Serving,
    /// Nothing new: answer ERR_SHUTDOWN to options; finish what is in flight, flush, close.
    Draining,
    /// Close now.
    Ending,
}

/// How a session ended; for the audit line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The client said so (NBD_CMD_DISC or NBD_OPT_ABORT).
    Disconnected,
    /// The client closed without a word.
    Closed,
}

/// Runs one session on a connected stream socket. `stream` may be blocking or not: it is made
/// non-blocking here. Ends soon after `life` says so.
pub async fn run(
    stream: OwnedFd,
    peer: Peer,
    rules: Arc<Rules>,
    life: watch::Receiver<Life>,
) -> End {
    drop((stream, peer, rules, life));
    End::Closed
}
