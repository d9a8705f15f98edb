//! What carries a session's bytes: a descriptor of the kernel's, or a guest's virtqueues. The rest of the
//! session sees one type, and pays a branch for it.

use std::{
    any::Any,
    io::{self, IoSlice, IoSliceMut},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
};

use vsock_device::Connection;

use crate::{stream::Stream, sys, sys::socket::Socket};

/// A connected stream, ready for the runtime.
#[derive(Debug)]
pub(super) struct Wire {
    /// Stands first: it is dropped before the connection is.
    held: Mutex<Option<Box<dyn Any + Send>>>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Kernel(Socket),
    Guest(Connection),
}

impl Wire {
    /// Drops `guard` when the stream is about to be closed: before the other end can know of it.
    pub(super) fn new(stream: Stream, guard: impl Any + Send) -> io::Result<Self> {
        let kind = match stream {
            Stream::Kernel { from, to } => Kind::Kernel(Socket::new(from, to)?),
            Stream::Guest(connection) => Kind::Guest(connection),
        };
        Ok(Self { held: Mutex::new(Some(Box::new(guard))), kind })
    }

    /// Is on the event loop of the current thread from now on; on an error it stays where it is.
    pub(super) fn move_here(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Kernel(socket) => socket.move_here(),
            // The device wakes the task that waits, on any thread.
            Kind::Guest(_) => Ok(()),
        }
    }

    /// Drops what is held now: nothing more than a farewell is sent.
    pub(super) fn release(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Receives what is there: `Ok(0)` is the end of the stream, `WouldBlock` nothing yet.
    pub(super) fn try_recv(&self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match &self.kind {
            Kind::Kernel(socket) => socket.try_recv(runs),
            Kind::Guest(connection) => connection.try_recv(runs),
        }
    }

    /// Sends as much as goes: `WouldBlock` if nothing does.
    pub(super) fn try_send(&self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.kind {
            Kind::Kernel(socket) => socket.try_send(runs),
            Kind::Guest(connection) => connection.try_send(runs),
        }
    }

    /// Waits until `try_recv` is worth a call.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Kernel(socket) => socket.readable().await,
            Kind::Guest(connection) => {
                connection.readable().await;
                Ok(())
            }
        }
    }

    /// Waits until `try_send` is worth a call.
    pub(super) async fn writable(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Kernel(socket) => socket.writable().await,
            Kind::Guest(connection) => {
                connection.writable().await;
                Ok(())
            }
        }
    }

    /// Whether the client has gone, as far as can be seen, also while bytes of it wait to be received. Over TCP and
    /// the kernel's vsock one that has only ended its sending looks the same.
    pub(super) fn has_hung_up(&self) -> bool {
        match &self.kind {
            Kind::Kernel(socket) if socket.is_unix() => self.is_closed(),
            Kind::Kernel(socket) => sys::poll::sends_no_more(socket.as_fd()),
            Kind::Guest(connection) => connection.has_hung_up(),
        }
    }

    /// Whether the client has certainly gone: nothing that is sent arrives.
    pub(super) fn is_closed(&self) -> bool {
        match &self.kind {
            Kind::Kernel(socket) => sys::poll::is_closed(socket.as_fd()),
            Kind::Guest(connection) => connection.is_closed(),
        }
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish_sending(&self) {
        match &self.kind {
            Kind::Kernel(socket) => socket.finish_sending(),
            Kind::Guest(connection) => connection.finish_sending(),
        }
    }
}
