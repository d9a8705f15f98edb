//! The byte stream of a session: a kernel socket or a guest's virtqueues (`wire`), plain or inside TLS.
//!
//! `session` uses one type for all of them. A plain stream costs a branch per call.

pub(crate) mod buffer_pool;
#[cfg(feature = "psk")]
mod psk;
mod tls;
mod wire;

use std::{
    io::{self, IoSlice, IoSliceMut},
    sync::Arc,
};

use self::tls::Secure;
pub(crate) use self::wire::Wire;
use crate::tls::{Acceptor, Certificate, Failure};

/// A connected stream.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(Wire),
    Secure(Box<Secure>),
    #[cfg(feature = "psk")]
    Shared(Box<psk::Shared>),
}

impl Transport {
    /// Runs the TLS handshake. Nothing may have been received after STARTTLS.
    pub(crate) async fn secure(socket: Wire, acceptor: &Acceptor) -> Result<Self, Failure> {
        match acceptor {
            Acceptor::Certificates(config) => {
                Ok(Self::Secure(Box::new(Secure::accept(socket, config).await?)))
            }
            #[cfg(feature = "psk")]
            Acceptor::SharedKeys(keys) => {
                Ok(Self::Shared(Box::new(psk::Shared::accept(socket, keys).await?)))
            }
        }
    }

    /// Receives the available bytes. `Ok(0)` is the end of the stream; the error `WouldBlock` means that there are none
    /// yet.
    pub(crate) fn try_recv(&mut self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_recv(runs),
            Self::Secure(secure) => secure.try_recv(runs),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.try_recv(runs),
        }
    }

    /// Accepts as many bytes as possible, and returns their number; `WouldBlock` if none. Accepted bytes may not have
    /// been sent yet: see `is_flushed`.
    pub(crate) fn try_send(&mut self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_send(runs),
            Self::Secure(secure) => secure.try_send(runs),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.try_send(runs),
        }
    }

    /// Sends the accepted bytes; `WouldBlock` if some remain.
    pub(crate) fn try_flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Secure(secure) => secure.try_flush(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.try_flush(),
        }
    }

    /// Whether all accepted bytes have been sent.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Secure(secure) => secure.is_flushed(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.is_flushed(),
        }
    }

    /// Waits until `try_recv` may succeed.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.readable().await,
            Self::Secure(secure) => secure.readable().await,
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.readable().await,
        }
    }

    /// Waits until `try_send` or `try_flush` may succeed.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.writable().await,
            Self::Secure(secure) => secure.writable().await,
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.writable().await,
        }
    }

    /// Sends all of `bytes`.
    pub(crate) async fn send_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() || !self.is_flushed() {
            let sent = if bytes.is_empty() {
                self.try_flush()
            } else {
                self.try_send(&[IoSlice::new(bytes)]).map(|n| bytes = &bytes[n..])
            };
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the sending direction of the stream.
    pub(crate) fn finish_sending(&mut self) {
        match self {
            Self::Plain(socket) => socket.finish_sending(),
            Self::Secure(secure) => secure.finish_sending(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.finish_sending(),
        }
    }

    /// Tells the client that the session is over, if the stream is inside TLS (close_notify).
    pub(crate) fn say_goodbye(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Secure(secure) => secure.say_goodbye(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.say_goodbye(),
        }
    }

    /// The stream below TLS.
    pub(crate) fn wire(&self) -> &Wire {
        match self {
            Self::Plain(socket) => socket,
            Self::Secure(secure) => secure.wire(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.wire(),
        }
    }

    /// The stream below TLS, mutable.
    pub(crate) fn wire_mut(&mut self) -> &mut Wire {
        match self {
            Self::Plain(socket) => socket,
            Self::Secure(secure) => secure.wire_mut(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.wire_mut(),
        }
    }

    /// Bytes of memory that it holds in addition to the session's own buffers.
    pub(crate) fn held(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Secure(secure) => secure.held(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.held(),
        }
    }

    /// Called when the connection goes to sleep: frees unused memory.
    pub(crate) fn rest(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Secure(secure) => secure.rest(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.rest(),
        }
    }

    /// The certificate by which the other end has identified itself.
    pub(crate) fn certificate(&self) -> Option<Arc<Certificate>> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(secure) => secure.certificate(),
            #[cfg(feature = "psk")]
            Self::Shared(_) => None,
        }
    }
}

/// The failure of TLS that an error of the stream contains, if any.
pub(crate) fn failure(error: &io::Error) -> Option<Failure> {
    error.get_ref()?.downcast_ref::<Failure>().cloned()
}
