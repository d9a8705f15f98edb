//! The byte stream of a session: a file descriptor, or a guest's virtqueues. The rest of the session sees one type, at
//! the cost of a branch per call.

use std::{
    any::Any,
    io::{self, IoSlice, IoSliceMut},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use vsock_device::Connection;

use crate::{listen::Accepted, sys, sys::socket::Socket};

/// How long a client may take to read the last replies after the agent has ended its sending.
const LINGER: Duration = Duration::from_millis(250);

/// A connected stream, ready for the runtime.
#[derive(Debug)]
pub(crate) struct Wire {
    /// The first field, so that it is dropped before the connection is.
    held: Mutex<Option<Box<dyn Any + Send>>>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Kernel(Socket),
    Guest(Connection),
}

impl Wire {
    /// Drops `guard` just before the stream is closed, so before the other end can notice the close.
    pub(crate) fn new(accepted: Accepted, guard: impl Any + Send) -> io::Result<Self> {
        let kind = match accepted {
            Accepted::Kernel { from, to } => Kind::Kernel(Socket::new(from, to)?),
            Accepted::Guest(connection) => Kind::Guest(connection),
        };
        Ok(Self { held: Mutex::new(Some(Box::new(guard))), kind })
    }

    /// Registers the stream with the event loop of the current thread. After an error it stays where it was.
    pub(crate) fn move_here(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Kernel(socket) => socket.move_here(),
            // The device wakes the waiting task on any thread.
            Kind::Guest(_) => Ok(()),
        }
    }

    /// Drops the guard now. After this nothing is sent but the end of the stream.
    pub(crate) fn release(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Receives the available bytes. `Ok(0)` is the end of the stream; the error `WouldBlock` means that there are none
    /// yet.
    pub(crate) fn try_recv(&self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match &self.kind {
            Kind::Kernel(socket) => socket.try_recv(runs),
            Kind::Guest(connection) => connection.try_recv(runs),
        }
    }

    /// Sends as much as possible, and returns the number of bytes; `WouldBlock` if nothing can be sent.
    pub(crate) fn try_send(&self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.kind {
            Kind::Kernel(socket) => socket.try_send(runs),
            Kind::Guest(connection) => connection.try_send(runs),
        }
    }

    /// Waits until `try_recv` may succeed.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Kernel(socket) => socket.readable().await,
            Kind::Guest(connection) => {
                connection.readable().await;
                Ok(())
            }
        }
    }

    /// Waits until `try_send` may succeed.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Kernel(socket) => socket.writable().await,
            Kind::Guest(connection) => {
                connection.writable().await;
                Ok(())
            }
        }
    }

    /// Whether the client has gone, as far as can be detected. It works while unread bytes of the client remain. Over
    /// TCP and the kernel's vsock, a client that has only ended its sending looks the same.
    pub(crate) fn has_hung_up(&self) -> bool {
        match &self.kind {
            Kind::Kernel(socket) if socket.is_unix() => self.is_closed(),
            Kind::Kernel(socket) => sys::poll::sends_no_more(socket.as_fd()),
            Kind::Guest(connection) => connection.has_hung_up(),
        }
    }

    /// Whether the client has certainly gone, so that nothing that is sent arrives.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.kind {
            Kind::Kernel(socket) => sys::poll::is_closed(socket.as_fd()),
            Kind::Guest(connection) => connection.is_closed(),
        }
    }

    /// Ends the sending direction of the stream.
    pub(crate) fn finish_sending(&self) {
        match &self.kind {
            Kind::Kernel(socket) => socket.finish_sending(),
            Kind::Guest(connection) => connection.finish_sending(),
        }
    }

    /// Waits for the client to close, after sending has ended, so that all data arrives. Closing a TCP socket with
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
        // A timeout is no error: the client has had time enough.
        tokio::time::timeout(LINGER, discard()).await.ok();
    }
}
