//! A connected socket, in plain text or inside TLS, that is read and written like a file. Whether a
//! call waits, and for how long, is the socket's own business.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::fd::{AsFd, BorrowedFd},
};

use rustls::ClientConnection;

use crate::{
    socket::Socket,
    tls::{Ready, TlsError, shake_hands},
};

/// Encrypted bytes that wait for the socket: at this bound the caller waits too.
pub(crate) const WAITING: usize = 256 << 10;
/// The longest record, bytes (RFC 5246, 6.2.3): when so many have come without one byte for the
/// caller, what comes is no answer that is on its way.
const RECORD: usize = 5 + (16 << 10) + (2 << 10);

/// The stream.
#[derive(Debug)]
pub enum Stream {
    Plain(Socket),
    Tls(Box<Tls>),
}

/// TLS after its handshake.
#[derive(Debug)]
pub struct Tls {
    socket: Socket,
    connection: ClientConnection,
    /// Bytes that have come since the last one for the caller.
    idle: usize,
}

impl Stream {
    /// Goes on inside TLS, in which it may be already.
    pub fn secure(self, ready: Ready) -> Result<Self, TlsError> {
        let Self::Plain(mut socket) = self else { return Ok(self) };
        let connection = shake_hands(&mut socket, ready)?;
        Ok(Self::Tls(Box::new(Tls { socket, connection, idle: 0 })))
    }

    const fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &tls.socket,
        }
    }

    const fn socket_mut(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
        }
    }

    /// As `Socket::begin_to_wait`.
    pub fn begin_to_wait(&mut self) {
        self.socket_mut().begin_to_wait();
    }

    /// As `Socket::never_wait`.
    pub const fn never_wait(&mut self) {
        self.socket_mut().never_wait();
    }

    /// Bytes that have moved on the socket, in either direction, since this was asked before: what a
    /// server's life is judged by. Inside TLS they count as they come and not when a record is whole,
    /// so that the same speed is the same life; those of records that bring nothing do not count.
    pub const fn take_moved(&mut self) -> usize {
        self.socket_mut().take_moved()
    }

    /// There are bytes to read that the socket itself does not tell of.
    pub fn holds_input(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            // What is wrong with it, the next read tells.
            Self::Tls(tls) => tls
                .connection
                .process_new_packets()
                .is_ok_and(|state| state.plaintext_bytes_to_read() > 0),
        }
    }

    /// There are bytes that were written and wait for the socket; `flush` sends them.
    pub fn holds_output(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.connection.wants_write(),
        }
    }

    /// Nothing more will be written. Nothing depends on whether the other end hears it.
    pub fn end(&mut self) {
        if let Self::Tls(tls) = self {
            tls.connection.send_close_notify();
            tls.push().ok();
        }
    }
}

impl Tls {
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

impl Read for Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(room),
            Self::Tls(tls) => tls.pull(room),
        }
    }

    fn read_vectored(&mut self, rooms: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read_vectored(rooms),
            Self::Tls(tls) => {
                let first = rooms.iter_mut().find(|room| !room.is_empty());
                first.map_or(Ok(0), |room| tls.pull(room))
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.put(&[IoSlice::new(bytes)]),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write_vectored(slices),
            Self::Tls(tls) => tls.put(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.push(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}
