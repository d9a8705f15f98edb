//! Where lines go: stderr, a file, the sockets of syslog and of the journal. Whatever fails here, the
//! agent goes on.

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

/// Of syslog(3).
pub(super) const SYSLOG: &str = "/dev/log";
/// Of sd_journal_send(3).
pub(super) const JOURNAL: &str = "/run/systemd/journal/socket";

/// How long one attempt to send to a daemon that does not read takes.
const ATTEMPT: Duration = Duration::from_millis(250);

/// How long a line waits for a target that does not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// On a thread that has nothing else to do.
    ForEver,
    /// For one attempt, where that can be bounded.
    Briefly,
}

/// Whether people watch stderr.
pub(super) fn has_colours() -> bool {
    io::stderr().is_terminal()
}

/// One place for lines.
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

    /// Opens a file again; what is open stays so where that fails.
    pub(super) fn reopen(&mut self) -> Result<(), (PathBuf, io::Error)> {
        match self {
            Self::File(file) => file.reopen().map_err(|error| (file.path.clone(), error)),
            Self::Stderr | Self::Datagrams(_) => Ok(()),
        }
    }
}

/// Past the lock of `io::stderr`: nobody else is to wait with this line. A pipe that another process
/// shares may have been made non-blocking by it.
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

/// A file that lines are appended to, and that another may move away, as logrotate(8) does.
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

/// A socket that a daemon reads datagrams from. By its path each time: it may start again.
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

    /// Is somebody there to read?
    pub(super) fn reach(&self) -> io::Result<()> {
        UnixDatagram::unbound()?.connect(&self.path)
    }

    /// Where nobody listens the line is lost, as with syslog(3).
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
