//! A connected socket, in plain text or inside TLS, that is read and written like a file. Nothing here
//! waits: what would wait fails with `WouldBlock`.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::fd::{AsFd, BorrowedFd},
};

use rustls::ClientConnection;

use crate::socket::Socket;

/// Most encrypted bytes that wait for the socket. At this bound writes fail with `WouldBlock`.
pub(crate) const WAITING: usize = 256 << 10;
/// The longest record, bytes (RFC 5246, 6.2.3). When as many bytes have come without one byte for the
/// caller, they are not part of an answer that is on its way.
const RECORD: usize = 5 + (16 << 10) + (2 << 10);

/// What carries the bytes of a stream: a non-blocking socket.
pub trait Carrier: Read + Write {
    /// So many bytes that were read brought nothing, and are no sign of life.
    fn discount(&mut self, bytes: usize) {
        let _ = bytes;
    }
}

/// The stream.
#[derive(Debug)]
pub enum Stream<S = Socket> {
    /// In plain text.
    Plain(S),
    /// Inside TLS.
    Tls(Box<Tls<S>>),
}

/// TLS after its handshake. Written bytes are encrypted at once and sent as the socket takes them;
/// `flush` sends the rest.
#[derive(Debug)]
pub struct Tls<S = Socket> {
    socket: S,
    connection: ClientConnection,
    /// Bytes that have come since the last one for the caller.
    idle: usize,
}

impl<S> Stream<S> {
    /// Puts another carrier in place of the socket, such as one that a runtime knows.
    ///
    /// # Errors
    /// Those of `map`.
    pub fn try_map<T>(self, map: impl FnOnce(S) -> io::Result<T>) -> io::Result<Stream<T>> {
        Ok(match self {
            Self::Plain(socket) => Stream::Plain(map(socket)?),
            Self::Tls(tls) => {
                let Tls { socket, connection, idle } = *tls;
                Stream::Tls(Box::new(Tls { socket: map(socket)?, connection, idle }))
            }
        })
    }

    pub(crate) const fn socket_mut(&mut self) -> &mut S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
        }
    }

    /// Whether bytes can be read that the socket itself does not tell of.
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

    /// Whether bytes that were written wait for the socket; `flush` sends them.
    pub(crate) fn holds_output(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.connection.wants_write(),
        }
    }
}

impl Stream {
    /// Bytes that have moved on the socket, in either direction, since the last call: what a server's
    /// life is judged by. Inside TLS they count as they come and not when a record is whole, so that
    /// the same speed is the same life; the bytes of records that bring nothing do not count.
    pub(crate) const fn take_moved(&mut self) -> usize {
        self.socket_mut().take_moved()
    }
}

impl<S: Carrier> Stream<S> {
    /// Nothing more will be written. Nothing depends on whether the other end hears it.
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

    /// What carries the encrypted bytes.
    pub const fn carrier(&self) -> &S {
        &self.socket
    }

    /// Says goodbye (close_notify). Nothing depends on whether the other end hears it.
    pub fn end(&mut self) {
        self.connection.send_close_notify();
        self.push().ok();
    }

    /// Sends what is encrypted.
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
            // The end of the socket is one without a goodbye, which the reader then says.
            let n = self.connection.read_tls(&mut self.socket)?;
            self.idle = self.idle.saturating_add(n);
            if self.idle > RECORD {
                self.socket.discount(n);
            }
            let judged = self.connection.process_new_packets();
            // What is wrong is told to the other end, which may be gone.
            let told = self.push();
            judged.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match told {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    fn put(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // Only what has room is taken.
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
