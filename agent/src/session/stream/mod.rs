//! The stream under a session: plain, or inside TLS. The engine sees one type; a plain stream pays
//! a branch for it.

mod tls;

use std::{
    io::{self, IoSlice, IoSliceMut},
    sync::Arc,
};

pub(super) use self::tls::{Secure, failure};
use crate::{sys::socket::Socket, tls::Certificate};

/// A connected stream.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Socket),
    Secure(Box<Secure>),
}

impl Stream {
    /// Receives what is there: `Ok(0)` is the end of the stream, `WouldBlock` nothing yet.
    pub(super) fn try_recv(&mut self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_recv(runs),
            Self::Secure(secure) => secure.try_recv(runs),
        }
    }

    /// Takes as much as goes; `WouldBlock` if nothing does. Taken is not sent: `is_flushed`.
    pub(super) fn try_send(&mut self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_send(runs),
            Self::Secure(secure) => secure.try_send(runs),
        }
    }

    /// Sends what was taken; `WouldBlock` if some of it is left.
    pub(super) fn try_flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Secure(secure) => secure.try_flush(),
        }
    }

    /// Nothing that was taken waits to be sent.
    pub(super) fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Secure(secure) => secure.is_flushed(),
        }
    }

    /// Waits until `try_recv` is worth a call.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.readable().await,
            Self::Secure(secure) => secure.readable().await,
        }
    }

    /// Waits until `try_send` or `try_flush` is worth a call.
    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.writable().await,
            Self::Secure(secure) => secure.writable().await,
        }
    }

    /// Sends all of `bytes`.
    pub(super) async fn send_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
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
    pub(super) fn finish_sending(&mut self) {
        match self {
            Self::Plain(socket) => socket.finish_sending(),
            Self::Secure(secure) => secure.finish_sending(),
        }
    }

    /// The session is over: the client is told so where TLS has a word for it.
    pub(super) fn say_goodbye(&mut self) {
        if let Self::Secure(secure) = self {
            secure.say_goodbye();
        }
    }

    /// What is below all this.
    pub(super) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Secure(secure) => secure.socket(),
        }
    }

    /// Going to sleep: memory that nothing is in goes back.
    pub(super) fn rest(&mut self) {
        if let Self::Secure(secure) = self {
            secure.rest();
        }
    }

    /// Whom the other end has proven to be.
    pub(super) fn certificate(&self) -> Option<Arc<Certificate>> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(secure) => secure.certificate(),
        }
    }
}
