//! Targets of lines: stderr, a file, the sockets of syslog and the journal. No failure here stops the agent.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
    os::{
        fd::AsFd,
        unix::{fs::OpenOptionsExt, net::UnixDatagram},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

/// The socket of syslog(3).
pub(super) const SYSLOG: &str = "/dev/log";
/// The socket of sd_journal_send(3).
pub(super) const JOURNAL: &str = "/run/systemd/journal/socket";

/// Maximum duration of one attempt to send to a daemon that does not read.
const ATTEMPT: Duration = Duration::from_millis(250);

/// How long to wait for a target that does not take a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Until the target takes it. For a thread with no other task.
    ForEver,
    /// For one attempt, where that can be bounded.
    Briefly,
}

/// Whether stderr is a terminal.
pub(super) fn has_colours() -> bool {
    io::stderr().is_terminal()
}

/// One target for lines.
#[derive(Debug)]
pub(super) enum Outlet {
    Stderr,
    File(LogFile),
    Datagrams(Datagrams),
}

impl Outlet {
    /// Writes a line in one piece.
    pub(super) fn put(&mut self, text: &str, wait: Wait) -> io::Result<()> {
        match self {
            Self::Stderr => to_stderr(text.as_bytes(), wait),
            Self::File(file) => file.file.write_all(text.as_bytes()),
            Self::Datagrams(socket) => socket.send(text.as_bytes(), wait),
        }
    }

    /// Opens a file again. On failure the old file stays open.
    pub(super) fn reopen(&mut self) -> Result<(), (PathBuf, io::Error)> {
        match self {
            Self::File(file) => file.reopen().map_err(|error| (file.path.clone(), error)),
            Self::Stderr | Self::Datagrams(_) => Ok(()),
        }
    }
}

/// Writes without the lock of `io::stderr`, so that no other thread waits for this line. Another process that shares
/// the pipe may have made it non-blocking.
fn to_stderr(mut bytes: &[u8], wait: Wait) -> io::Result<()> {
    let stderr = io::stderr();
    while !bytes.is_empty() {
        match write(&stderr, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if wait == Wait::ForEver => {
                let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut ready, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// A file that lines are appended to. Another process such as logrotate(8) may move it away.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

/// A socket from which a daemon reads datagrams. Each line is sent to its path, because the daemon may restart.
#[derive(Debug)]
pub(super) struct Datagrams {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Datagrams {
    pub(super) fn to(path: impl Into<PathBuf>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(ATTEMPT))?;
        Ok(Self { path: path.into(), socket })
    }

    /// Checks whether a daemon listens.
    pub(super) fn reach(&self) -> io::Result<()> {
        UnixDatagram::unbound()?.connect(&self.path)
    }

    /// Sends a datagram. Without a listener the line is lost, as with syslog(3).
    fn send(&self, datagram: &[u8], wait: Wait) -> io::Result<()> {
        loop {
            match self.socket.send_to(datagram, &self.path) {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && wait == Wait::ForEver => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent.map(drop),
            }
        }
    }
}
