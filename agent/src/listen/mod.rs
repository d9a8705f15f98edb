//! Listeners: each kind yields connected streams and their peers.
//!
//! `plan` binds listeners or takes over inherited ones, and `serve` accepts from them. A failed accept never ends a
//! listener.

mod accepted;
pub(crate) mod activation;
mod address;
mod descriptor;
mod error;
mod given;
mod kept;
mod local;
mod rights;
pub(crate) mod stdio;
mod tcp;
mod unix;
mod uri;
mod vm;
mod vsock;

use std::{
    fmt, io,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use vsock_device::Place;

use self::descriptor::Kind;
pub(crate) use self::{
    accepted::Accepted,
    address::{Address, AddressError, Family},
    error::{BindError, Cause},
    given::{Adopted, Given, GivenError},
    rights::Rights,
};
use crate::{fd_store::Kept, peer::Peer};

/// Connections that the kernel queues until they are accepted, capped by `net.core.somaxconn`. Over vsock, a connection
/// that finds the queue full is reset, so the queue is large.
const BACKLOG: u32 = 4096;

/// Shortest and longest wait when the system has no descriptor or memory for another connection.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How often the log repeats that nothing can be accepted. At the limit, accepts fail and succeed alternately as
/// connections come and go.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    /// Who opened the socket, for people, if it was not this process.
    origin: Option<String>,
    /// Duration of the next wait for resources.
    pause: Duration,
    /// When the log last said that accepting failed.
    said: Option<Instant>,
    /// Whether the log still has to say that accepting works again.
    episode: bool,
}

#[derive(Debug)]
enum Socket {
    Vsock(vsock::Listener),
    Tcp(tcp::Listener),
    Unix(unix::Listener),
    Vm(vm::Listener),
}

impl Listener {
    /// Listens on all `addresses`. Sockets that an earlier process kept are taken over, and those that no address names
    /// are closed. Call it on the runtime that will accept. It may wait for a name lookup.
    pub(crate) async fn bind_all(
        addresses: &[Address],
        mut kept: Kept,
    ) -> Result<Vec<Self>, BindError> {
        let mut all = Vec::new();
        for address in addresses {
            all.push(match Self::bind(address, &mut kept).await {
                // A kept socket that no address names may be in the way.
                Err(_) if !kept.is_empty() => None,
                bound => Some(bound?),
            });
        }
        let mut no_more = Kept::from(kept.store().clone());
        kept::finish(kept);
        let mut listeners = Vec::new();
        for (address, bound) in addresses.iter().zip(all) {
            listeners.extend(match bound {
                Some(bound) => bound,
                None => Self::bind(address, &mut no_more).await?,
            });
        }
        Ok(listeners)
    }

    /// Listens on `address`, on several sockets if a TCP host has several addresses.
    async fn bind(address: &Address, kept: &mut Kept) -> Result<Vec<Self>, BindError> {
        let sockets = match address {
            Address::Vsock { cid, port } => {
                vsock::Listener::bind(*cid, *port, kept).map(|it| vec![Socket::Vsock(it)])
            }
            Address::Tcp { host, port, family } => tcp::bind(host.as_deref(), *port, *family, kept)
                .await
                .map(|all| all.into_iter().map(Socket::Tcp).collect()),
            Address::Unix(path) if kept.store().is_there() => {
                unix::Listener::kept_or_new("unix", path, &Rights::default(), kept)
                    .await
                    .map(|it| vec![Socket::Unix(it)])
            }
            Address::Unix(path) => {
                unix::Listener::bind(path, &Rights::default()).map(|it| vec![Socket::Unix(it)])
            }
            Address::VhostUser { path, cid, port, rights } => {
                let bound = vm::Listener::vhost_user(path, *cid, *port, rights, kept).await;
                bound.map(|it| vec![Socket::Vm(it)])
            }
            Address::Hybrid { path, port, rights } => {
                let bound = vm::Listener::hybrid(path, *port, rights, kept).await;
                bound.map(|it| vec![Socket::Vm(it)])
            }
            Address::Private => unix::Listener::private().map(|it| vec![Socket::Unix(it)]),
        };
        match sockets {
            Ok(sockets) => Ok(sockets.into_iter().map(Self::new).collect()),
            Err(source) => Err(BindError { address: address.clone(), source }),
        }
    }

    /// The path of the VM whose memory holds the listener's connections, if there is one.
    pub(crate) fn vm(&self) -> Option<Arc<Path>> {
        match &self.socket {
            Socket::Vm(vm::Listener::VhostUser { host, .. }) => {
                Some(Arc::clone(&host.place().path))
            }
            _ => None,
        }
    }

    fn new(socket: Socket) -> Self {
        Self { socket, origin: None, pause: PAUSE.0, said: None, episode: false }
    }

    /// Takes over a socket that listens already. `origin` says where it came from. Call it on the runtime that will
    /// accept.
    fn adopt(socket: OwnedFd, kind: Kind, origin: String) -> io::Result<Self> {
        let socket = match kind {
            Kind::Vsock => Socket::Vsock(vsock::Listener::adopt(socket)?),
            Kind::Tcp => Socket::Tcp(tcp::Listener::adopt(socket)?),
            Kind::Unix => Socket::Unix(unix::Listener::adopt(socket)?),
        };
        Ok(Self { origin: Some(origin), ..Self::new(socket) })
    }

    /// Waits for the next connection, through every failure. Dropping the future loses no connection, and a new future
    /// tries again at once.
    pub(crate) async fn accept(&mut self) -> (Accepted, Peer) {
        loop {
            let plain = |(socket, peer): (OwnedFd, Peer)| (socket.into(), peer);
            let accepted = match &mut self.socket {
                Socket::Vsock(listener) => listener.accept().await.map(plain),
                Socket::Tcp(listener) => listener.accept().await.map(plain),
                Socket::Unix(listener) => listener.accept().await.map(plain),
                Socket::Vm(listener) => listener.accept().await,
            };
            match accepted {
                Ok(accepted) => {
                    self.pause = PAUSE.0;
                    if std::mem::take(&mut self.episode) {
                        tracing::info!("{self} accepts again");
                    }
                    return accepted;
                }
                Err(error) if only_that_connection(&error) => {
                    tracing::debug!(
                        "{self}: a connection was gone before it was accepted: {error}"
                    );
                }
                Err(error) => {
                    if self.said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                        (self.said, self.episode) = (Some(Instant::now()), true);
                        tracing::warn!(
                            "{self} cannot accept: {error}; new connections wait, open ones \
                             go on{}",
                            hint(&error)
                        );
                    }
                    let pause = self.pause;
                    self.pause = (pause * 2).min(PAUSE.1);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// The NBD URI by which a client connects and asks for `export`. A Unix socket without a path has none.
    pub(crate) fn uri(&self, export: &str) -> Option<String> {
        Some(match &self.socket {
            Socket::Vsock(listener) => uri::vsock(listener.cid, listener.port, export),
            Socket::Tcp(listener) => uri::tcp(listener.address, export),
            Socket::Unix(listener) => uri::unix(listener.path()?, export),
            // The guest's view: its host has CID 2.
            Socket::Vm(listener) => uri::vsock(None, listener.port(), export),
        })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Socket::Vsock(listener) => {
                Address::Vsock { cid: listener.cid, port: listener.port }.fmt(f)?;
            }
            Socket::Tcp(listener) => write!(f, "tcp:{}", listener.address)?,
            Socket::Unix(listener) => listener.fmt(f)?,
            Socket::Vm(vm::Listener::VhostUser { host, .. }) => {
                let Place { path, cid, port } = host.place();
                write!(f, "vhost-user:{},cid={cid},port={port}", path.display())?;
            }
            Socket::Vm(vm::Listener::Hybrid { path, port, .. }) => {
                write!(f, "hybrid:{},port={port}", path.display())?;
            }
        }
        self.origin.as_ref().map_or(Ok(()), |origin| write!(f, " ({origin})"))
    }
}

/// Errors of accept(2) that concern one connection and not the listener. Errors that could recur at once and for ever
/// are not among them: `accept` pauses after those.
fn only_that_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EINTR
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENONET
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
        )
    )
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; raise the hard limit of open files (LimitNOFILE=, 'ulimit -Hn')",
        Some(libc::ENFILE) => "; raise fs.file-max",
        _ => "",
    }
}
