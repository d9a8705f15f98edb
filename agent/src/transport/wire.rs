//! What carries a session's bytes: a descriptor of the kernel's, or a guest's virtqueues. The rest of the
//! session sees one type, and pays a branch for it.

use std::{
    any::Any,
    io::{self, IoSlice, IoSliceMut},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use vsock_device::Connection;

use crate::{listen::Accepted, sys, sys::socket::Socket};

/// How long a client gets to take in the last replies after the agent has said its last.
const LINGER: Duration = Duration::from_millis(250);

/// A connected stream, ready for the runtime.
#[derive(Debug)]
pub(crate) struct Wire {
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
    pub(crate) fn new(accepted: Accepted, guard: impl Any + Send) -> io::Result<Self> {
        let kind = match accepted {
            Accepted::Kernel { from, to } => Kind::Kernel(Socket::new(from, to)?),
            Accepted::Guest(connection) => Kind::Guest(connection),
        };
        Ok(Self { held: Mutex::new(Some(Box::new(guard))), kind })
    }

    /// Is on the event loop of the current thread from now on; on an error it stays where it is.
    pub(crate) fn move_here(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Kernel(socket) => socket.move_here(),
            // The device wakes the task that waits, on any thread.
            Kind::Guest(_) => Ok(()),
        }
    }

    /// Drops what is held now: nothing more than a farewell is sent.
    pub(crate) fn release(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Receives what is there: `Ok(0)` is the end of the stream, `WouldBlock` nothing yet.
    pub(crate) fn try_recv(&self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match &self.kind {
            Kind::Kernel(socket) => socket.try_recv(runs),
            Kind::Guest(connection) => connection.try_recv(runs),
        }
    }

    /// Sends as much as goes: `WouldBlock` if nothing does.
    pub(crate) fn try_send(&self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.kind {
            Kind::Kernel(socket) => socket.try_send(runs),
            Kind::Guest(connection) => connection.try_send(runs),
        }
    }

    /// Waits until `try_recv` is worth a call.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Kernel(socket) => socket.readable().await,
            Kind::Guest(connection) => {
                connection.readable().await;
                Ok(())
            }
        }
    }

    /// Waits until `try_send` is worth a call.
    pub(crate) async fn writable(&self) -> io::Result<()> {
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
    pub(crate) fn has_hung_up(&self) -> bool {
        match &self.kind {
            Kind::Kernel(socket) if socket.is_unix() => self.is_closed(),
            Kind::Kernel(socket) => sys::poll::sends_no_more(socket.as_fd()),
            Kind::Guest(connection) => connection.has_hung_up(),
        }
    }

    /// Whether the client has certainly gone: nothing that is sent arrives.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.kind {
            Kind::Kernel(socket) => sys::poll::is_closed(socket.as_fd()),
            Kind::Guest(connection) => connection.is_closed(),
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish_sending(&self) {
        match &self.kind {
            Kind::Kernel(socket) => socket.finish_sending(),
            Kind::Guest(connection) => connection.finish_sending(),
        }
    }

    /// Waits, when nothing more will be sent, so that what was sent arrives: to close a TCP socket with
    /// unread bytes in it resets the connection, and the reset overtakes the last replies.
    pub(crate) async fn linger(&self) {
        let mut bytes = [0; 4096];
        let mut discard = async || {
            loop {
                match self.try_recv(&mut [IoSliceMut::new(&mut bytes)]) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if self.readable().await.is_err() {
                            return;
                        }
                    }
                    Ok(0) | Err(_) => return,
                }
            }
        };
        // Over time is over: the client had its chance.
        tokio::time::timeout(LINGER, discard()).await.ok();
    }
}
