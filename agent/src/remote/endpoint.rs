//! The address of the remote server, and how to connect to it.

use std::{
    fmt, fs, io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixListener},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nbd::uri::Place;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use thiserror::Error;
use tokio::time::sleep;

use nbd_client::{dial::DialError, socket::Socket};

use super::connect::dial;
use crate::{sys, tenant::Tenant};

/// Time between two attempts, as in nbdkit.
const PAUSE: Duration = Duration::from_secs(1);

/// A remote server.
#[derive(Debug)]
pub(crate) enum Endpoint {
    At(Place),
    /// An existing connection. No second one can be made.
    Connected(Mutex<Option<OwnedFd>>),
    Started(Server),
}

/// A server that this agent has started, and ends.
#[derive(Debug)]
pub(crate) struct Server {
    program: String,
    child: Mutex<Child>,
    place: Place,
    _directory: Directory,
}

/// A directory that is removed with its contents when this is dropped.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // It is in TMPDIR, where other clean-up will remove it.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum EndpointError {
    #[error(transparent)]
    Connect(#[from] DialError),
    #[error("cannot use the connection of socket-fd")]
    Socket(#[source] io::Error),
    #[error("the connection of socket-fd is used up; start the agent again with another")]
    UsedUp,
    #[error("cannot start {program}")]
    Start { program: String, source: io::Error },
}

impl Endpoint {
    /// Starts `program` with a listening Unix socket as descriptor 3, as systemd would (sd_listen_fds(3)).
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Result<Self, EndpointError> {
        let failed = |source| EndpointError::Start { program: program.to_owned(), source };
        let template = std::env::temp_dir().join("agentXXXXXX");
        let directory = sys::process::private_directory(&template).map_err(failed)?;
        let directory = Directory(directory);
        let path = directory.0.join("socket");
        let listener = UnixListener::bind(&path).map_err(failed)?;
        // The shell replaces itself by the server, so its process id is the server's.
        let take = "command -v \"$1\" >/dev/null || exit 127; LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; \
                    exec \"$@\" 3<&0 0</dev/null";
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", take, "sh", program]).args(arguments);
        // The service manager's variables for this process are not meant for the server.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDNAMES"] {
            shell.env_remove(name);
        }
        let shell = shell.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null());
        let child = Mutex::new(shell.spawn().map_err(failed)?);
        let place = Place::Unix { socket: path.as_os_str().as_bytes().to_vec() };
        let program = program.to_owned();
        Ok(Self::Started(Server { program, child, place, _directory: directory }))
    }

    /// Connects for a client of `tenant`. After a failure tries `again` times more. Waits as long as it takes.
    pub(super) async fn connect(
        &self,
        again: u32,
        tenant: Option<&Arc<Tenant>>,
    ) -> Result<Socket, EndpointError> {
        let mut left = again;
        loop {
            match self.try_once(tenant).await {
                Err(EndpointError::Connect(_)) if left > 0 => {
                    left -= 1;
                    sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    async fn try_once(&self, tenant: Option<&Arc<Tenant>>) -> Result<Socket, EndpointError> {
        let place = match self {
            Self::At(place) => place,
            Self::Connected(socket) => {
                let taken = socket.lock().unwrap_or_else(PoisonError::into_inner).take();
                return Socket::new(taken.ok_or(EndpointError::UsedUp)?)
                    .map_err(EndpointError::Socket);
            }
            Self::Started(server) => &server.place,
        };
        Ok(dial(place, &self.to_string(), tenant).await?)
    }

    /// If a server that was started here has ended, why it gives no answer.
    pub(super) async fn ended(&self) -> Option<String> {
        let Self::Started(server) = self else { return None };
        // Its socket closes a moment before the process can be waited for.
        for _ in 0..20 {
            let ended = server.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
            match ended.ok()? {
                Some(status) if status.code() == Some(127) => {
                    return Some("there is no such program".into());
                }
                Some(status) => return Some(format!("it ended ({status}); run it by hand")),
                None => sleep(Duration::from_millis(5)).await,
            }
        }
        None
    }

    /// Ends a server that was started here.
    pub(crate) fn end(&self) {
        if let Self::Started(server) = self {
            server.end();
        }
    }
}

impl Server {
    fn end(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(child.try_wait(), Ok(None)) {
            // The child has not been waited for, so the id is still its own.
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

impl fmt::Display for Endpoint {
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
