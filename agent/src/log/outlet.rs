//! Where lines go: stderr, a file, the sockets of syslog and of the journal. Whatever fails here, the
//! agent goes on, and a reader that hangs does not hold it.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    time::Duration,
};

use super::line::Line;

/// Of syslog(3).
pub(super) const SYSLOG: &str = "/dev/log";
/// Of sd_journal_send(3).
pub(super) const JOURNAL: &str = "/run/systemd/journal/socket";

/// How long a line waits for a reader that does not read, and how long the lines after it.
const PATIENCE: Duration = Duration::from_millis(250);
const NO_PATIENCE: Duration = Duration::from_millis(1);

/// One place for lines.
#[derive(Debug)]
pub(super) enum Outlet {
    Stderr { colours: bool },
    Json,
    File(LogFile),
    Syslog(Datagrams),
    Journal(Datagrams),
}

impl Outlet {
    pub(super) fn stderr() -> Self {
        Self::Stderr { colours: io::stderr().is_terminal() }
    }

    /// Writes a line in one piece. What cannot be written is lost.
    pub(super) fn put(&mut self, line: &Line) {
        match self {
            Self::Stderr { colours } => to_stderr(&line.human(*colours)),
            Self::Json => to_stderr(&line.json()),
            // A full disk must not end the agent, and there is no better place to tell of it.
            Self::File(file) => drop(file.file.write_all(line.human(false).as_bytes())),
            Self::Syslog(socket) => socket.send(&line.syslog()),
            Self::Journal(socket) => socket.send(&line.journal()),
        }
    }
}

fn to_stderr(text: &str) {
    io::stderr().lock().write_all(text.as_bytes()).ok();
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

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is open stays so if the file cannot be opened again.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

/// A socket that a daemon reads datagrams from. By its path each time: it may start again.
#[derive(Debug)]
pub(super) struct Datagrams {
    path: PathBuf,
    socket: UnixDatagram,
    hangs: bool,
}

impl Datagrams {
    pub(super) fn to(path: impl Into<PathBuf>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { path: path.into(), socket, hangs: false })
    }

    /// Is somebody there to read?
    pub(super) fn reach(&self) -> io::Result<()> {
        UnixDatagram::unbound()?.connect(&self.path)
    }

    /// Where nobody listens a line is lost, as with syslog(3).
    fn send(&mut self, datagram: &str) {
        let sent = self.socket.send_to(datagram.as_bytes(), &self.path);
        let hangs = sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if hangs != self.hangs {
            self.hangs = hangs;
            let patience = if hangs { NO_PATIENCE } else { PATIENCE };
            // The old patience will do as well.
            self.socket.set_write_timeout(Some(patience)).ok();
        }
    }
}
