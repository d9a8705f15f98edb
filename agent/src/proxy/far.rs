//! Where the far server is, and how to get a connection to it.

use std::{
    fmt,
    fs::{self, File},
    io,
    net::{TcpStream, ToSocketAddrs},
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use nbd::uri::Place;
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket},
    },
    unistd::Pid,
};
use thiserror::Error;

use crate::sys;

/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries, as nbdkit has it.
const PAUSE: Duration = Duration::from_secs(1);

/// A server that is not this one.
#[derive(Debug)]
pub enum Far {
    At(Place),
    /// A connection that is there already; there is no other.
    Connected(Mutex<Option<OwnedFd>>),
    Started(Server),
}

/// A server that this agent has started, and ends.
#[derive(Debug)]
pub struct Server {
    program: String,
    child: Mutex<Child>,
    place: Place,
    _directory: Directory,
}

/// Removed when dropped, with what is in it.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // It is in TMPDIR: whoever cleans there takes it.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum FarError {
    #[error("cannot connect to {far}")]
    Connect { far: String, source: io::Error },
    #[error("the connection of socket-fd is used up; start the agent again with another")]
    UsedUp,
    #[error("cannot start {program}")]
    Start { program: String, source: io::Error },
}

impl Far {
    /// Starts `program` with a listening Unix socket as descriptor 3, as systemd would
    /// (sd_listen_fds(3)).
    pub fn start(program: &str, arguments: &[&str]) -> Result<Self, FarError> {
        let failed = |source| FarError::Start { program: program.to_owned(), source };
        let template = std::env::temp_dir().join("agentXXXXXX");
        let directory = sys::process::private_directory(&template).map_err(failed)?;
        let directory = Directory(directory);
        let path = directory.0.join("socket");
        let listener = UnixListener::bind(&path).map_err(failed)?;
        // The id is the server's own: the shell becomes it.
        let take = "command -v \"$1\" >/dev/null || exit 127; LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; \
                    exec \"$@\" 3<&0 0</dev/null";
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", take, "sh", program]).args(arguments);
        // What the service manager said to this process is not for that one.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDNAMES"] {
            shell.env_remove(name);
        }
        let shell = shell.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null());
        let child = Mutex::new(shell.spawn().map_err(failed)?);
        let place = Place::Unix { socket: path.as_os_str().as_bytes().to_vec() };
        let program = program.to_owned();
        Ok(Self::Started(Server { program, child, place, _directory: directory }))
    }

    /// Connects; where that fails, `again` times more. Waits as long as it takes.
    pub(super) fn connect(&self, again: u32) -> Result<File, FarError> {
        let mut left = again;
        loop {
            match self.try_once() {
                Err(FarError::Connect { .. }) if left > 0 => {
                    left -= 1;
                    thread::sleep(PAUSE);
                }
                result => return result.map(File::from),
            }
        }
    }

    fn try_once(&self) -> Result<OwnedFd, FarError> {
        let place = match self {
            Self::At(place) => place,
            Self::Connected(socket) => {
                let taken = socket.lock().unwrap_or_else(PoisonError::into_inner).take();
                return taken.ok_or(FarError::UsedUp);
            }
            Self::Started(server) => &server.place,
        };
        to(place).map_err(|source| FarError::Connect { far: self.to_string(), source })
    }

    /// Why a server that was started here gives no answer: it is over.
    pub(super) fn ended(&self) -> Option<String> {
        let Self::Started(server) = self else { return None };
        let mut child = server.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Its socket closes a moment before it can be waited for.
        for _ in 0..20 {
            match child.try_wait().ok()? {
                Some(status) if status.code() == Some(127) => {
                    return Some("there is no such program".into());
                }
                Some(status) => return Some(format!("it ended ({status}); run it by hand")),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
        None
    }

    /// Ends a server that was started here.
    pub fn end(&self) {
        if let Self::Started(server) = self {
            server.end();
        }
    }
}

impl Server {
    fn end(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(child.try_wait(), Ok(None)) {
            // It is there and ours: the id means no other.
            if let Ok(id) = child.id().try_into() {
                kill(Pid::from_raw(id), Signal::SIGTERM).ok();
            }
            child.wait().ok();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn to(place: &Place) -> io::Result<OwnedFd> {
    match place {
        Place::Unix { socket } => match socket.as_slice() {
            [0, name @ ..] => {
                let address = SocketAddr::from_abstract_name(name)?;
                Ok(UnixStream::connect_addr(&address)?.into())
            }
            path => Ok(UnixStream::connect(Path::new(std::ffi::OsStr::from_bytes(path)))?.into()),
        },
        Place::Tcp { host, port } => {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for address in (host.as_str(), *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, PATIENCE) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        return Ok(stream.into());
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        Place::Vsock { cid, port } => {
            let kind = (AddressFamily::Vsock, SockType::Stream);
            let fd = socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, None)?;
            // vsock(7): 2 s, unless the socket says otherwise.
            connect(fd.as_raw_fd(), &VsockAddr::new(*cid, *port))?;
            Ok(fd)
        }
    }
}

impl fmt::Display for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(Place::Tcp { host, port }) if host.contains(':') => {
                write!(f, "tcp:[{host}]:{port}")
            }
            Self::At(Place::Tcp { host, port }) => write!(f, "tcp:{host}:{port}"),
            Self::At(Place::Unix { socket }) => write!(f, "unix:{}", socket.escape_ascii()),
            Self::At(Place::Vsock { cid, port }) => write!(f, "vsock:{cid}:{port}"),
            Self::Connected(_) => f.write_str("the socket of socket-fd"),
            Self::Started(server) => f.write_str(&server.program),
        }
    }
}
