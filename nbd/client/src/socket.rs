//! A connected socket. `Stream` reads and writes it, in plain text or inside TLS, so that time and
//! bytes are counted here alone and mean the same in both.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem,
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, poll},
};

use crate::timeout::{self, poll_timeout};

/// Whether a call waits.
#[derive(Debug, Clone, Copy)]
enum Waits {
    /// Never: the caller has poll(2).
    Never,
    /// Until then; `None` is for ever. However many bytes come before that.
    Until(Option<Instant>),
}

/// The socket.
#[derive(Debug)]
pub struct Socket {
    file: File,
    waits: Waits,
    /// Bytes in either direction since `take_moved`.
    moved: usize,
}

impl Socket {
    /// One that waits, and has begun to now.
    pub fn new(file: File) -> io::Result<Self> {
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut socket = Self { file, waits: Waits::Never, moved: 0 };
        socket.begin_to_wait();
        Ok(socket)
    }

    /// From here on the server has the time that `patience` gives it for all that is read and written
    /// until this is called again.
    pub fn begin_to_wait(&mut self) {
        let until = timeout::limit().and_then(|limit| Instant::now().checked_add(limit));
        self.waits = Waits::Until(until);
    }

    /// From here on calls say `WouldBlock`, and the caller waits.
    pub const fn never_wait(&mut self) {
        self.waits = Waits::Never;
    }

    /// As others expect it who know nothing of all this.
    pub fn into_blocking(self) -> io::Result<File> {
        fcntl(&self.file, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok(self.file)
    }

    /// How many bytes have moved since this was asked before.
    pub const fn take_moved(&mut self) -> usize {
        mem::replace(&mut self.moved, 0)
    }

    /// Bytes have come that brought nothing.
    pub(crate) const fn discount(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_sub(bytes);
    }

    /// Does what does not block, and waits for `event` where it would.
    fn call(
        &mut self,
        event: PollFlags,
        mut does: impl FnMut(&mut File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let done = does(&mut self.file);
            let until = match (done, self.waits) {
                (Err(error), Waits::Until(until)) if error.kind() == io::ErrorKind::WouldBlock => {
                    until
                }
                (Err(error), _) => return Err(error),
                (Ok(n), Waits::Until(Some(until))) if Instant::now() >= until && n > 0 => {
                    // It trickles, and the time is up all the same.
                    return Err(timeout::exhausted());
                }
                (Ok(n), _) => {
                    self.moved += n;
                    return Ok(n);
                }
            };
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match poll(&mut [PollFd::new(self.file.as_fd(), event)], poll_timeout(left)) {
                Ok(0) => return Err(timeout::exhausted()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.call(PollFlags::POLLIN, |file| file.read(room))
    }

    fn read_vectored(&mut self, rooms: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.call(PollFlags::POLLIN, |file| file.read_vectored(rooms))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call(PollFlags::POLLOUT, |file| file.write(bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.call(PollFlags::POLLOUT, |file| file.write_vectored(slices))
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
    use std::os::{fd::OwnedFd, unix::net::UnixStream};

    use super::*;

    #[test]
    fn what_comes_and_goes_is_counted_and_what_brought_nothing_is_not() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut socket = Socket::new(File::from(OwnedFd::from(ours))).unwrap();
        theirs.write_all(&[1; 100]).unwrap();
        assert_eq!(socket.read(&mut [0; 60]).unwrap(), 60);
        assert_eq!(socket.write(&[2; 7]).unwrap(), 7);
        assert_eq!(socket.read(&mut [0; 60]).unwrap(), 40);
        socket.discount(40);
        assert_eq!((socket.take_moved(), socket.take_moved()), (67, 0));
        socket.never_wait();
        let error = socket.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
