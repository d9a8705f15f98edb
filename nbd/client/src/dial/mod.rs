//! Connects a socket to an address. `connect` negotiates on it.

mod attempt;
mod tcp;
mod unix;
mod vsock;

use std::io;

use nbd::uri::Place;
use nix::sys::socket::{AddressFamily, VsockAddr};
use thiserror::Error;

use crate::{socket::Socket, timeout::Timeout, tls::TlsError, wait::Wait};

/// Why there is no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// TLS cannot be used.
    #[error("cannot use {name}")]
    Tls {
        /// The server, as the caller calls it.
        name: String,
        /// The reason.
        source: TlsError,
    },
    /// No address of the host can be found.
    #[error("cannot look up the address of {host:?}")]
    Resolve {
        /// The host's name.
        host: String,
        /// The resolver's reason.
        source: io::Error,
    },
    /// No server accepts the connection.
    #[error("cannot connect to {name} ({hint})")]
    Connect {
        /// The server, as the caller calls it.
        name: String,
        /// What the error means, or what to do about it.
        hint: String,
        /// The system's reason, of kind `TimedOut` if the timeout has expired.
        source: io::Error,
    },
    /// The socket cannot be set up.
    #[error("cannot set up the socket for {name}")]
    SetUp {
        /// The server, as the caller calls it.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// Connects to a place; `name` is what messages call it. Of several addresses of a host, the first
/// that answers is used.
///
/// # Errors
/// `DialError::Resolve`, `DialError::Connect`.
pub async fn dial(
    place: &Place,
    name: &str,
    timeout: Timeout,
    wait: &impl Wait,
) -> Result<Socket, DialError> {
    let connected = match place {
        Place::Tcp { host, port } => {
            let addresses = tcp::addresses(host, *port, wait).await;
            let addresses =
                addresses.map_err(|source| DialError::Resolve { host: host.clone(), source })?;
            tcp::connect(&addresses, timeout, wait).await
        }
        Place::Unix { socket } => unix::connect(socket, timeout, wait).await,
        Place::Vsock { cid, port } => {
            let address = VsockAddr::new(cid.get(), *port);
            attempt::connect(AddressFamily::Vsock, &address, timeout, wait).await
        }
    };
    connected.map_err(|source| {
        let hint = match place {
            Place::Tcp { port, .. } => tcp::hint(&source, *port),
            Place::Unix { .. } => unix::hint(&source),
            Place::Vsock { cid, port } => vsock::hint(&source, vsock::device(), *cid, *port),
        };
        DialError::Connect { name: name.to_owned(), hint, source }
    })
}
