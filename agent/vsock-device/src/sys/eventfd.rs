//! Another process's eventfds, without ever waiting for that process.
//!
//! The device has them of VMMs. O_NONBLOCK is no help: it belongs to the open file, which the other
//! process has too and can change back at any time.

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

/// Whether it is one: no pipe, socket or file, which would wait in more ways. Says why not. Linux before
/// 5.8 does not read eventfds without waiting, and so none is taken there.
pub(crate) fn check(fd: BorrowedFd<'_>) -> Result<(), &'static str> {
    // eventfd(2): "fails with EINVAL if the size of the supplied buffer is less than 8 bytes". What else
    // says so (a timerfd, a signalfd) waits for nobody either, and takes no writes.
    match read(fd, &mut [0; 4]).map_err(|error| error.raw_os_error()) {
        Err(Some(libc::EINVAL)) => Ok(()),
        Err(Some(libc::EOPNOTSUPP)) => Err("is no eventfd, or this kernel is older than Linux 5.8"),
        _ => Err("is no eventfd"),
    }
}

/// For those that are given to `signal`.
pub(crate) fn prepare(fd: BorrowedFd<'_>) -> io::Result<()> {
    if Aio::of_process().is_some() {
        return Ok(());
    }
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Adds 1; nothing if it is full, since then nobody has looked at the last one yet. An eventfd's write has
/// no flag of its own against waiting: the kernel's own way does not wait.
pub(crate) fn signal(fd: BorrowedFd<'_>) -> io::Result<()> {
    match Aio::of_process() {
        Some(aio) => aio.signal(fd),
        None => write_one(fd),
    }
}

/// Where there is no `Aio`. Who sets it to full between these calls, and O_NONBLOCK back, is waited for: a
/// process that tries that all the time gets there within seconds.
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

    /// Sets it to 0; `WouldBlock` if it is 0.
    fn take(fd: BorrowedFd<'_>) -> io::Result<()> {
        read(fd, &mut [0; 8])
    }

    fn eventfd(value: u64) -> EventFd {
        let fd = EventFd::from_flags(EfdFlags::empty()).unwrap();
        fd.write(value).unwrap();
        fd
    }

    #[test]
    fn one_that_waits_is_not_waited_for() {
        let fd = eventfd(3);
        assert_eq!(check(fd.as_fd()), Ok(()), "and nothing is taken from it");
        take(fd.as_fd()).unwrap();
        assert_eq!(take(fd.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        signal(fd.as_fd()).unwrap();
        take(fd.as_fd()).unwrap();
        // Full: a plain write would wait.
        for signal in [signal, write_one] {
            let full = eventfd(u64::MAX - 1);
            signal(full.as_fd()).unwrap();
            assert!(full.read().unwrap() >= u64::MAX - 1);
        }
    }

    #[test]
    fn each_signal_counts_and_one_of_a_semaphore_does_too() {
        let fd = EventFd::from_flags(EfdFlags::EFD_SEMAPHORE).unwrap();
        // More than the kernel keeps answers for.
        (0..10_000).for_each(|_| signal(fd.as_fd()).unwrap());
        (0..10_000).for_each(|_| take(fd.as_fd()).unwrap());
        assert_eq!(take(fd.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    /// Fills it and empties it again for as long as `signal` is called: one that waited between two looks
    /// would stand here within a second or some.
    #[test]
    fn who_fills_it_at_the_worst_moment_is_not_waited_for() {
        let fd = eventfd(0);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let hostile = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // Room for one, and none.
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
    fn what_is_none_is_known() {
        let (pipe, mut to_pipe) = io::pipe().unwrap();
        to_pipe.write_all(b"1234").unwrap();
        let (socket, _other) = UnixStream::pair().unwrap();
        let file = File::open("/proc/self/exe").unwrap();
        for fd in [pipe.as_fd(), to_pipe.as_fd(), socket.as_fd(), file.as_fd()] {
            assert!(check(fd).is_err());
        }
    }
}
