//! One non-blocking stream descriptor on the runtime: any socket, or a pipe.
//!
//! A receive and a send are one system call each, on many runs of memory. tokio's own streams cannot be used, because
//! its vsock stream has no vectored calls. The engine uses one type for all kinds.

use std::{
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    task::{Context, Poll, Waker},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        socket::{AddressFamily, Shutdown, SockaddrLike, SockaddrStorage, getsockname, shutdown},
        uio::{readv, writev},
    },
};
use tokio::io::unix::AsyncFd;

/// Maximum number of runs in one vectored call (`IOV_MAX` of Linux).
pub(crate) const MAX_RUNS: usize = 1024;

/// A connected stream, registered with the runtime of the current thread.
#[derive(Debug)]
pub(crate) struct Socket {
    from: AsyncFd<OwnedFd>,
    /// The descriptor to write to. `None` if it is the same.
    to: Option<AsyncFd<OwnedFd>>,
}

impl Socket {
    /// Takes over the descriptors and makes them non-blocking. Without `to`, `from` is also written to.
    pub(crate) fn new(from: OwnedFd, to: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self { from: register(from)?, to: to.map(register).transpose()? })
    }

    /// Moves the registration to the runtime of the current thread. An error leaves everything as before.
    pub(crate) fn move_here(&mut self) -> io::Result<()> {
        let again = |fd: &AsyncFd<OwnedFd>| register(fd.get_ref().try_clone()?);
        let from = again(&self.from)?;
        self.to = self.to.as_ref().map(again).transpose()?;
        self.from = from;
        Ok(())
    }

    /// Whether this is a Unix socket. A Unix socket distinguishes a closed peer from one that only stopped sending.
    pub(crate) fn is_unix(&self) -> bool {
        getsockname::<SockaddrStorage>(self.from.as_raw_fd())
            .is_ok_and(|address| address.family() == Some(AddressFamily::Unix))
    }

    fn to(&self) -> &AsyncFd<OwnedFd> {
        self.to.as_ref().unwrap_or(&self.from)
    }

    /// Receives what is there. `Ok(0)` is the end of the stream, and `WouldBlock` means nothing yet.
    pub(crate) fn try_recv(&self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room: usize = runs.iter().map(|run| run.len()).sum();
        // A waker that does nothing. A caller that has to wait calls `readable`, which registers its own.
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(guard) = self.from.poll_read_ready(&mut context) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let mut guard = guard?;
        let result = retry(|| readv(self.from.get_ref(), runs));
        match &result {
            // Fewer bytes than there was room for: the socket is empty now, and the next bytes bring a new event. This
            // saves the call that would only return EAGAIN.
            Ok(n) if *n > 0 && *n < room => guard.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            _ => guard.retain_ready(),
        }
        result
    }

    /// Sends as many bytes as the socket takes. `WouldBlock` if it takes none.
    pub(crate) fn try_send(&self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(|| retry(|| writev(self.to().get_ref(), runs)))
    }

    /// Calls `call`, which writes to the socket, if the socket takes bytes. Otherwise returns `WouldBlock`.
    pub(crate) fn try_write<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(guard) = self.to().poll_write_ready(&mut context) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let mut guard = guard?;
        let result = call();
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            guard.clear_ready();
        } else {
            guard.retain_ready();
        }
        result
    }

    // Both wait with the same poll that the attempts use: it counts against the task's budget, and yields when the
    // budget is spent. tokio's `readable` does not count. It would return ready for ever to a task whose attempts fail
    // for lack of budget.

    /// Waits until `try_recv` is worth a call.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.from.poll_read_ready(cx).map_ok(|mut guard| guard.retain_ready())).await
    }

    /// Waits until `try_send` is worth a call.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.to().poll_write_ready(cx).map_ok(|mut guard| guard.retain_ready())).await
    }

    /// Shuts down the sending direction. Has no effect if the descriptor is not a socket.
    pub(crate) fn finish_sending(&self) {
        shutdown(self.to().as_raw_fd(), Shutdown::Write).ok();
    }
}

fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    // SAFETY: an `OwnedFd` is a valid, open descriptor and `as_raw_fd` gives the same one every time. It is moved into
    // the `AsyncFd`, which drops it after the registration.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

fn retry(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.from.as_fd()
    }
}
