//! A connected socket, in plain text or inside TLS, that is read and written like a file. Nothing here
//! blocks: calls that would block fail with `WouldBlock`.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use rustls::ClientConnection;

use crate::socket::Socket;

/// The most encrypted bytes that wait for the socket. At this bound writes fail with `WouldBlock`.
pub(crate) const WAITING: usize = 256 << 10;
/// The longest record, in bytes (RFC 5246, 6.2.3). When this many bytes have arrived without one byte
/// for the caller, they are not part of an answer.
const RECORD: usize = 5 + (16 << 10) + (2 << 10);

/// The transport of a stream's bytes: a non-blocking socket.
pub trait Carrier: Read + Write {
    /// Discounts bytes that were read and carried no content: they are no sign of life.
    fn discount(&mut self, bytes: usize) {
        let _ = bytes;
    }
}

/// A stream of bytes, in plain text or inside TLS.
#[derive(Debug)]
pub enum Stream<S = Socket> {
    /// In plain text.
    Plain(S),
    /// Inside TLS.
    Tls(Box<Tls<S>>),
}

/// TLS after its handshake. Written bytes are encrypted at once and sent as the socket accepts them;
/// `flush` sends the rest.
#[derive(Debug)]
pub struct Tls<S = Socket> {
    socket: S,
    connection: ClientConnection,
    /// Bytes that have arrived since the last one for the caller.
    idle: usize,
}

impl<S> Stream<S> {
    pub(crate) const fn socket_mut(&mut self) -> &mut S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
        }
    }

    /// Whether bytes can be read although the socket itself is not readable.
    pub(crate) fn holds_input(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            // An error is reported by the next read.
            Self::Tls(tls) => tls
                .connection
                .process_new_packets()
                .is_ok_and(|state| state.plaintext_bytes_to_read() > 0),
        }
    }

    /// Whether written bytes still wait for the socket; `flush` sends them.
    pub(crate) fn holds_output(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.connection.wants_write(),
        }
    }
}

impl Stream {
    /// The socket's descriptor, to wait for it.
    pub fn descriptor(&self) -> Arc<File> {
        match self {
            Self::Plain(socket) => socket.descriptor(),
            Self::Tls(tls) => tls.socket.descriptor(),
        }
    }

    /// Bytes that have moved on the socket, in either direction, since the last call. They are the
    /// measure of the server's signs of life. Inside TLS they count as they arrive and not when a
    /// record is complete, so that the same speed counts the same. Bytes of records without content do
    /// not count.
    pub(crate) const fn take_moved(&mut self) -> usize {
        self.socket_mut().take_moved()
    }
}

impl<S: Carrier> Stream<S> {
    /// Ends the sending direction. An error does not matter.
    pub fn end(&mut self) {
        if let Self::Tls(tls) = self {
            tls.end();
        }
    }
}

impl<S: Carrier> Tls<S> {
    pub(crate) fn new(socket: S, connection: ClientConnection) -> Self {
        Self { socket, connection, idle: 0 }
    }

    /// Sends close_notify. An error does not matter.
    pub fn end(&mut self) {
        self.connection.send_close_notify();
        self.push().ok();
    }

    /// Sends the encrypted bytes.
    fn push(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn pull(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => {
                    self.idle = 0;
                    return other;
                }
            }
            // If the socket ends without close_notify, the reader reports that.
            let n = self.connection.read_tls(&mut self.socket)?;
            self.idle = self.idle.saturating_add(n);
            if self.idle > RECORD {
                self.socket.discount(n);
            }
            let judged = self.connection.process_new_packets();
            // Sends the alert to the other end, which may be gone.
            let told = self.push();
            judged.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match told {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    fn put(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // Take only what there is room for.
        match self.push() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        let n = self.connection.writer().write_vectored(slices)?;
        match self.push() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ if n == 0 && slices.iter().any(|slice| !slice.is_empty()) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            _ => Ok(n),
        }
    }
}

impl<S: Carrier> Read for Tls<S> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.pull(room)
    }

    fn read_vectored(&mut self, rooms: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let first = rooms.iter_mut().find(|room| !room.is_empty());
        first.map_or(Ok(0), |room| self.pull(room))
    }
}

impl<S: Carrier> Write for Tls<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.put(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()
    }
}

impl<S: Carrier> Read for Stream<S> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(room),
            Self::Tls(tls) => tls.read(room),
        }
    }

    fn read_vectored(&mut self, rooms: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read_vectored(rooms),
            Self::Tls(tls) => tls.read_vectored(rooms),
        }
    }
}

impl<S: Carrier> Write for Stream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write_vectored(slices),
            Self::Tls(tls) => tls.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

impl<S: AsFd> AsFd for Tls<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S: AsFd> AsFd for Stream<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
            Self::Tls(tls) => tls.as_fd(),
        }
    }
}
