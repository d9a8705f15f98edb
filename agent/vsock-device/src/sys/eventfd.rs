//! Eventfds of another process, used without ever blocking on that process.
//!
//! VMMs send them. O_NONBLOCK does not help: it is a flag of the open file, which the other process shares and can
//! clear at any time.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

use super::aio::Aio;

/// Checks that a descriptor is an eventfd, and not a pipe, a socket or a file, which can block in more ways. Linux
/// before 5.8 cannot read an eventfd without blocking, so none is accepted there.
pub(crate) fn check(fd: BorrowedFd<'_>) -> Result<(), &'static str> {
    // eventfd(2): "fails with EINVAL if the size of the supplied buffer is less than 8 bytes". A timerfd and a
    // signalfd do the same, but these do not block either, and accept no writes.
    match read(fd, &mut [0; 4]).map_err(|error| error.raw_os_error()) {
        Err(Some(libc::EINVAL)) => Ok(()),
        Err(Some(libc::EOPNOTSUPP)) => Err("is no eventfd, or this kernel is older than Linux 5.8"),
        _ => Err("is no eventfd"),
    }
}

/// The asynchronous reads that `signal` uses.
pub(crate) fn prepare(fd: BorrowedFd<'_>) -> io::Result<()> {
    if Aio::of_process().is_some() {
        return Ok(());
    }
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Adds 1 to an eventfd, or nothing if it is full, since then the last signal was not read yet. write(2) has no flag
/// against blocking, so the kernel's completion of a read is used, which does not block.
pub(crate) fn signal(fd: BorrowedFd<'_>) -> io::Result<()> {
    match Aio::of_process() {
        Some(aio) => aio.signal(fd),
        None => write_one(fd),
    }
}

/// Signals without `Aio`. The write blocks if the other process fills the eventfd and clears O_NONBLOCK between these
/// calls. A process that tries this all the time succeeds within seconds.
fn write_one(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO)?;
    if fds[0].revents().is_some_and(|ready| ready.contains(PollFlags::POLLOUT)) {
        write(fd, &1_u64.to_ne_bytes())?;
    }
    Ok(())
}

fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<()> {
    let slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the one slice is memory that is borrowed for the call; the kernel writes no more than its
    // length. -1: it has no positions.
    let n = unsafe { libc::preadv2(fd, &raw const slice, 1, -1, libc::RWF_NOWAIT) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Write,
        os::unix::net::UnixStream,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use nix::sys::eventfd::{EfdFlags, EventFd};

    use super::*;

    /// Sets the eventfd to 0; `WouldBlock` if it is 0.
    fn take(fd: BorrowedFd<'_>) -> io::Result<()> {
        read(fd, &mut [0; 8])
    }

    fn eventfd(value: u64) -> EventFd {
        let fd = EventFd::from_flags(EfdFlags::empty()).unwrap();
        fd.write(value).unwrap();
        fd
    }

    #[test]
    fn a_full_eventfd_that_blocks_does_not_block_a_signal() {
        let fd = eventfd(3);
        assert_eq!(check(fd.as_fd()), Ok(()), "and nothing is taken from it");
        take(fd.as_fd()).unwrap();
        assert_eq!(take(fd.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        signal(fd.as_fd()).unwrap();
        take(fd.as_fd()).unwrap();
        // The eventfd is full: a plain write would block.
        for signal in [signal, write_one] {
            let full = eventfd(u64::MAX - 1);
            signal(full.as_fd()).unwrap();
            assert!(full.read().unwrap() >= u64::MAX - 1);
        }
    }

    #[test]
    fn each_signal_counts_and_one_of_a_semaphore_does_too() {
        let fd = EventFd::from_flags(EfdFlags::EFD_SEMAPHORE).unwrap();
        // More signals than the kernel has room for completions.
        (0..10_000).for_each(|_| signal(fd.as_fd()).unwrap());
        (0..10_000).for_each(|_| take(fd.as_fd()).unwrap());
        assert_eq!(take(fd.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    /// Fills the eventfd and empties it again while `signal` is called. A `signal` that can block between two calls
    /// would block within a second or two.
    #[test]
    fn a_process_that_fills_it_at_the_worst_moment_does_not_block_a_signal() {
        let fd = eventfd(0);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let hostile = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // Room for one signal, and then for none.
                    take(fd.as_fd()).ok();
                    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
                    for value in [u64::MAX - 2, 1] {
                        write(&fd, &value.to_ne_bytes()).ok();
                    }
                    fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
                    thread::yield_now();
                }
            });
            (0..1_000_000).for_each(|_| signal(fd.as_fd()).unwrap());
            over.store(true, Ordering::Relaxed);
            hostile.join().unwrap();
        });
    }

    #[test]
    fn a_descriptor_that_is_no_eventfd_is_refused() {
        let (pipe, mut to_pipe) = io::pipe().unwrap();
        to_pipe.write_all(b"1234").unwrap();
        let (socket, _other) = UnixStream::pair().unwrap();
        let file = File::open("/proc/self/exe").unwrap();
        for fd in [pipe.as_fd(), to_pipe.as_fd(), socket.as_fd(), file.as_fd()] {
            assert!(check(fd).is_err());
        }
    }
}
