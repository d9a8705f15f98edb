//! A connected socket, in plain text or inside TLS, that is read and written like a file. In
//! blocking mode or not is the descriptor's own business.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::fd::{AsFd, BorrowedFd},
};

use rustls::ClientConnection;

/// Encrypted bytes that wait for the socket: at this bound the caller waits too.
pub(super) const WAITING: usize = 256 << 10;

/// The stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(File),
    Tls(Box<Tls>),
}

/// TLS after its handshake.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(super) socket: File,
    pub(super) connection: ClientConnection,
}

impl Stream {
    /// There are bytes to read that the socket itself does not tell of.
    pub(crate) fn holds_input(&mut self) -> bool {
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
    pub(crate) fn holds_output(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.connection.wants_write(),
        }
    }

    /// Nothing more will be written. Nothing depends on whether the other end hears it.
    pub(crate) fn end(&mut self) {
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
                other => return other,
            }
            // The end of the socket is one without a goodbye, which the reader then says.
            self.connection.read_tls(&mut self.socket)?;
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
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.push(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
            Self::Tls(tls) => tls.socket.as_fd(),
        }
    }
}
