//! From a URI to a connected stream. `session` calls it.
//!
//! All kinds of socket end up as one descriptor that is read and written like a file. No name is
//! looked up: the binary is static, and a guest without a network has nobody to ask.

mod tcp;
mod unix;
mod vsock;

use std::{fs::File, io, time::Duration};

use nbd::{Uri, uri::Place};
use nix::sys::time::TimeVal;
use thiserror::Error;

use crate::{socket::Socket, tls::TlsError};

/// Why there is no stream.
#[derive(Debug, Error)]
pub enum DialError {
    #[error("cannot use {uri}")]
    Tls { uri: String, source: TlsError },
    #[error("{0:?} is no address: names are not looked up here, write nbd://127.0.0.1/ or [::1]")]
    Name(String),
    #[error("cannot connect to {uri} ({hint})")]
    Connect {
        uri: String,
        /// What it means, and what to do about it.
        hint: String,
        source: io::Error,
    },
    #[error("cannot set up the socket for {uri}")]
    SetUp { uri: String, source: io::Error },
}

/// Connects. Reads and writes wait, and fail when `patience` is exhausted.
pub fn dial(uri: &Uri) -> Result<Socket, DialError> {
    let wrong = |source| DialError::SetUp { uri: uri.to_string(), source };
    Socket::new(dial_raw(uri)?).map_err(wrong)
}

/// For a socket, where zero is for ever too.
fn time_value(limit: Duration) -> TimeVal {
    let seconds = limit.as_secs().try_into().unwrap_or(i64::MAX);
    TimeVal::new(seconds, i64::from(limit.subsec_micros().max(1)))
}

/// Connects to a place. Reads and writes block as long as the other end lets them.
pub fn dial_raw(uri: &Uri) -> Result<File, DialError> {
    let connected = match &uri.place {
        Place::Tcp { host, port } => tcp::connect(&tcp::addresses(host, *port)?),
        Place::Unix { socket } => unix::connect(socket),
        Place::Vsock { cid, port } => vsock::connect(*cid, *port),
    };
    let fd = connected.map_err(|source| {
        let hint = match &uri.place {
            Place::Tcp { port, .. } => tcp::hint(&source, *port),
            Place::Unix { .. } => unix::hint(&source),
            Place::Vsock { cid, port } => vsock::hint(&source, vsock::device(), *cid, *port),
        };
        DialError::Connect { uri: uri.to_string(), hint, source }
    })?;
    Ok(File::from(fd))
}
