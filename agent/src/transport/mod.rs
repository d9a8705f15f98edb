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
    /// Takes the handshake. Nothing may have been received behind STARTTLS.
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

    /// Receives what is there: `Ok(0)` is the end of the stream, `WouldBlock` nothing yet.
    pub(crate) fn try_recv(&mut self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_recv(runs),
            Self::Secure(secure) => secure.try_recv(runs),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.try_recv(runs),
        }
    }

    /// Takes as much as goes; `WouldBlock` if nothing does. Taken is not sent: `is_flushed`.
    pub(crate) fn try_send(&mut self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_send(runs),
            Self::Secure(secure) => secure.try_send(runs),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.try_send(runs),
        }
    }

    /// Sends what was taken; `WouldBlock` if some of it is left.
    pub(crate) fn try_flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Secure(secure) => secure.try_flush(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.try_flush(),
        }
    }

    /// Nothing that was taken waits to be sent.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Secure(secure) => secure.is_flushed(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.is_flushed(),
        }
    }

    /// Waits until `try_recv` is worth a call.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.readable().await,
            Self::Secure(secure) => secure.readable().await,
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.readable().await,
        }
    }

    /// Waits until `try_send` or `try_flush` is worth a call.
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

    /// Says that nothing more will be sent.
    pub(crate) fn finish_sending(&mut self) {
        match self {
            Self::Plain(socket) => socket.finish_sending(),
            Self::Secure(secure) => secure.finish_sending(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.finish_sending(),
        }
    }

    /// The session is over: the client is told so where TLS has a word for it.
    pub(crate) fn say_goodbye(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Secure(secure) => secure.say_goodbye(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.say_goodbye(),
        }
    }

    /// What is below all this.
    pub(crate) fn wire(&self) -> &Wire {
        match self {
            Self::Plain(socket) => socket,
            Self::Secure(secure) => secure.wire(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.wire(),
        }
    }

    /// The same, to be changed.
    pub(crate) fn wire_mut(&mut self) -> &mut Wire {
        match self {
            Self::Plain(socket) => socket,
            Self::Secure(secure) => secure.wire_mut(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.wire_mut(),
        }
    }

    /// Bytes of memory that it holds beyond what the session gave or took.
    pub(crate) fn held(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Secure(secure) => secure.held(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.held(),
        }
    }

    /// Going to sleep: memory that nothing is in goes back.
    pub(crate) fn rest(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Secure(secure) => secure.rest(),
            #[cfg(feature = "psk")]
            Self::Shared(shared) => shared.rest(),
        }
    }

    /// Whom the other end has proven to be.
    pub(crate) fn certificate(&self) -> Option<Arc<Certificate>> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(secure) => secure.certificate(),
            #[cfg(feature = "psk")]
            Self::Shared(_) => None,
        }
    }
}

/// TLS's own reason in an error of the stream.
pub(crate) fn failure(error: &io::Error) -> Option<Failure> {
    error.get_ref()?.downcast_ref::<Failure>().cloned()
}
