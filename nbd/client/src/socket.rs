//! A connected socket that never blocks. `Stream` reads and writes it, in plain text or inside TLS.
//! Bytes are counted only here, so that they mean the same in both cases.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::stream::Carrier;

/// A socket. Reads and writes that would block fail with `WouldBlock`.
#[derive(Debug)]
pub struct Socket {
    file: Arc<File>,
    /// Bytes moved in either direction since `take_moved`.
    moved: usize,
}

impl Socket {
    /// Takes a connected socket over and makes it non-blocking.
    ///
    /// # Errors
    /// The system's, if the descriptor cannot be made non-blocking.
    pub fn new(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let file = File::from(socket.into());
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { file: Arc::new(file), moved: 0 })
    }

    /// The descriptor, to wait for it. Reads and writes go through the `Socket`.
    pub fn descriptor(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// The descriptor, made blocking.
    ///
    /// # Errors
    /// The system's, if the descriptor cannot be made blocking.
    pub fn into_blocking(self) -> io::Result<File> {
        fcntl(&*self.file, FcntlArg::F_SETFL(OFlag::empty()))?;
        Arc::try_unwrap(self.file).or_else(|file| file.try_clone())
    }

    /// How many bytes have moved since the last call.
    pub(crate) const fn take_moved(&mut self) -> usize {
        mem::replace(&mut self.moved, 0)
    }

    const fn count(&mut self, n: usize) -> usize {
        self.moved += n;
        n
    }
}

impl Carrier for Socket {
    fn discount(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_sub(bytes);
    }
}

impl Read for Socket {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        (&*self.file).read(room).map(|n| self.count(n))
    }

    fn read_vectored(&mut self, rooms: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self.file).read_vectored(rooms).map(|n| self.count(n))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.file).write(bytes).map(|n| self.count(n))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.file).write_vectored(slices).map(|n| self.count(n))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn moved_bytes_are_counted_except_those_without_content() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut socket = Socket::new(ours).unwrap();
        theirs.write_all(&[1; 100]).unwrap();
        assert_eq!(socket.read(&mut [0; 60]).unwrap(), 60);
        assert_eq!(socket.write(&[2; 7]).unwrap(), 7);
        assert_eq!(socket.read(&mut [0; 60]).unwrap(), 40);
        socket.discount(40);
        assert_eq!((socket.take_moved(), socket.take_moved()), (67, 0));
        let error = socket.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
