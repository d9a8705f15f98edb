//! Waiting for the ends of processes and pipes.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::io::{Interest, Ready, unix::AsyncFd};

/// A descriptor that is readable once the process has ended (pidfd_open(2)). A later process with the same number does
/// not affect it.
pub(crate) fn process(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(Errno::ESRCH))?;
    // SAFETY: the call takes two numbers and no memory.
    let returned = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(Errno::result(returned)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned the descriptor to this process, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers `fd` for a task that waits until it can be read from. Call it on a runtime.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is a valid, open descriptor and `as_raw_fd` gives the same one every time.
    // It is moved into the `AsyncFd`, which drops it after the registration.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Registers a descriptor that the caller reads and writes elsewhere, for both directions. Call it on the runtime.
pub(crate) fn shared(file: Arc<File>) -> io::Result<AsyncFd<Arc<File>>> {
    // SAFETY: the `Arc` keeps the file open, under one number, until the `AsyncFd` drops it after the registration.
    Ok(unsafe { AsyncFd::register(file) }?)
}

/// A duplicate of a descriptor that this process inherited at its start.
pub(crate) fn left(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: the descriptor is used for these calls only, which fail if it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        // The agent opens all its own descriptors with close-on-exec. An inherited descriptor does not have that flag,
        // or it would not have been inherited.
        return Err(io::Error::new(io::ErrorKind::NotFound, "it is one of agent's own"));
    }
    fd.try_clone_to_owned()
}

/// Waits until one of `inputs` can be read from, or the other end of one of `ends` has closed. `timeout` is that of
/// poll(2).
pub(crate) fn wait<F: AsFd>(inputs: &[F], ends: &[F], timeout: PollTimeout) -> nix::Result<()> {
    let mut fds: Vec<_> = inputs
        .iter()
        .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
        .chain(ends.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::empty())))
        .collect();
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the other end of a stream is closed for both directions, or the connection has failed. Over TCP a closed end
/// looks like one that has only stopped sending, until something is sent to it.
pub(crate) fn is_closed(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

/// Whether `fd` can be read from now.
pub(crate) fn is_readable(fd: &OwnedFd) -> bool {
    flags(fd, PollFlags::POLLIN).contains(PollFlags::POLLIN)
}

/// Whether the other end of a stream has stopped sending, even while bytes still wait to be received.
pub(crate) fn sends_no_more(fd: BorrowedFd<'_>) -> bool {
    // nix has no name for POLLRDHUP, and its `revents` is None if that bit is set. The only other events that poll(2)
    // reports unasked are an error and the end of both directions.
    let mut fds = [PollFd::new(fd, PollFlags::from_bits_retain(libc::POLLRDHUP))];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

/// Whether the other end of `fd` is closed.
pub(crate) fn is_hung_up(fd: &OwnedFd) -> bool {
    flags(fd, PollFlags::empty()).contains(PollFlags::POLLHUP)
}

/// The reading end of a pipe, a terminal or a socket that this process writes to.
#[derive(Debug)]
pub(crate) struct Reader(Option<AsyncFd<OwnedFd>>);

impl Reader {
    /// The reader of `output`. A file or a device has none. Call it on a runtime.
    pub(crate) fn of(output: impl AsFd) -> Self {
        let output = output.as_fd().try_clone_to_owned();
        // SAFETY: an `OwnedFd` is a valid, open descriptor and `as_raw_fd` gives the same one every time. It is moved
        // into the `AsyncFd`, which drops it after the registration.
        let register = |fd| unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) };
        Self(output.ok().and_then(|output| register(output).ok()))
    }

    /// Waits until the reader has closed its end. Waits for ever if there is no reader.
    pub(crate) async fn gone(&self) {
        let Some(output) = &self.0 else { return std::future::pending().await };
        loop {
            match output.ready(Interest::WRITABLE).await {
                // Room to write does not matter here. The reader's end arrives as another event.
                Ok(mut ready) if !ready.ready().is_write_closed() => {
                    ready.clear_ready_matching(Ready::WRITABLE);
                }
                Ok(_) | Err(_) => return,
            }
        }
    }
}

fn flags(fd: &OwnedFd, wanted: PollFlags) -> PollFlags {
    let mut fds = [PollFd::new(fd.as_fd(), wanted)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(_) => fds[0].revents().unwrap_or(PollFlags::empty()),
        Err(_) => PollFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{Shutdown, TcpListener, TcpStream},
        os::{fd::AsRawFd, unix::net::UnixStream},
        process::Command,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn the_end_of_a_process_is_readable() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let fd = process(child.id()).unwrap();
        assert!(!is_readable(&fd));
        child.kill().unwrap();
        wait(&[&fd], &[], PollTimeout::NONE).unwrap();
        assert!(is_readable(&fd));
        child.wait().unwrap();
        assert_eq!(process(u32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn the_end_of_a_pipe_is_told_from_bytes_in_it() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&writer, b"x").unwrap();
        assert!(!is_hung_up(&reader));
        drop(writer);
        wait(&[], &[&reader], PollTimeout::NONE).unwrap();
        assert!(is_hung_up(&reader));
    }

    #[test]
    fn a_peer_that_sends_no_more_is_seen_behind_bytes_that_wait() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (&theirs).write_all(b"x").unwrap();
        (&client).write_all(b"x").unwrap();
        assert!(!sends_no_more(ours.as_fd()) && !sends_no_more(server.as_fd()));
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(sends_no_more(ours.as_fd()));
        drop(theirs);
        assert!(sends_no_more(ours.as_fd()));
        drop(client);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !sends_no_more(server.as_fd()) {
            assert!(Instant::now() < deadline, "a client that has gone is not seen");
            thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_told_from_one_that_reads_nothing() {
        let (reading, writing) = nix::unistd::pipe().unwrap();
        let reader = Reader::of(&writing);
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, reader.gone()).await.is_err());
        drop(reading);
        reader.gone().await;
        let file = tempfile::tempfile().unwrap();
        assert!(tokio::time::timeout(soon, Reader::of(&file).gone()).await.is_err());
    }

    #[test]
    fn only_inherited_descriptors_are_taken() {
        assert!(left(-1).is_err());
        assert_eq!(left(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
        let ours = File::open("/dev/null").unwrap();
        assert_eq!(left(ours.as_raw_fd()).unwrap_err().kind(), io::ErrorKind::NotFound);
        left(0).unwrap();
    }
}
