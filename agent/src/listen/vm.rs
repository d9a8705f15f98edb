//! Listeners for virtual machines whose vsock device is not the kernel's. One path is one VM.
//!
//! `vhost-user`: the VMM connects, and the agent implements the guest's device (`vsock_device`). `hybrid`: the VMM
//! (Firecracker, Cloud Hypervisor) implements the device. It turns a guest's connection to CID 2 and a port into a
//! connection to the Unix socket `PATH_PORT`.

use std::{
    io,
    os::{fd::BorrowedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use vsock_cid::GuestCid;
use vsock_device::{Host, Keeper, Place};

use super::Accepted;
use super::{Cause, Rights, unix};
use crate::{
    fd_store::{FdStore, Kept, name_part},
    peer::Peer,
};

#[derive(Debug)]
pub(super) enum Listener {
    VhostUser {
        host: Host,
        /// Keeps the socket's name in the filesystem. The thread of `host` accepts.
        socket: unix::Listener,
    },
    Hybrid {
        socket: unix::Listener,
        /// The path as configured in the VMM.
        path: Arc<Path>,
        port: u32,
    },
}

impl Listener {
    pub(super) async fn vhost_user(
        path: &Path,
        cid: GuestCid,
        port: u32,
        rights: &Rights,
        kept: &mut Kept,
    ) -> Result<Self, Cause> {
        let socket = unix::Listener::kept_or_new("vhost-user", path, rights, kept).await?;
        let place = Place { path: path.into(), cid, port };
        let names = Names::of(path, kept.store()).map_err(Cause::System)?;
        let left = kept.take(&names.prefix);
        let keeper = names.store.is_there().then(|| Arc::new(names) as Arc<dyn Keeper>);
        let host =
            socket.for_a_thread().and_then(|listener| Host::start(listener, place, keeper, left));
        Ok(Self::VhostUser { host: host.map_err(Cause::System)?, socket })
    }

    pub(super) async fn hybrid(
        path: &Path,
        port: u32,
        rights: &Rights,
        kept: &mut Kept,
    ) -> Result<Self, Cause> {
        let path_of_port = hybrid_path(path, port);
        let socket = unix::Listener::kept_or_new("hybrid", &path_of_port, rights, kept).await?;
        Ok(Self::Hybrid { socket, path: path.into(), port })
    }

    /// The port that guests connect to.
    pub(super) fn port(&self) -> u32 {
        match self {
            Self::VhostUser { host, .. } => host.place().port,
            Self::Hybrid { port, .. } => *port,
        }
    }

    /// The Unix socket that was made for this listener.
    pub(super) fn socket(&self) -> &unix::Listener {
        match self {
            Self::VhostUser { socket, .. } | Self::Hybrid { socket, .. } => socket,
        }
    }

    pub(super) async fn accept(&mut self) -> io::Result<(Accepted, Peer)> {
        match self {
            Self::VhostUser { host, .. } => {
                let connection = host.accept().await?;
                let (path, port) = (Arc::clone(&host.place().path), Some(connection.port()));
                Ok((Accepted::Guest(connection), Peer::Vm { path, port }))
            }
            Self::Hybrid { socket, path, .. } => {
                let (stream, _vmm) = socket.accept().await?;
                Ok((stream.into(), Peer::Vm { path: Arc::clone(path), port: None }))
            }
        }
    }
}

/// The names of a VM's descriptors in the store.
#[derive(Debug)]
struct Names {
    store: FdStore,
    prefix: String,
}

impl Names {
    fn of(path: &Path, store: &FdStore) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let prefix = format!("vm.{}.", name_part(path.as_os_str().as_bytes()));
        Ok(Self { store: store.clone(), prefix })
    }
}

impl Keeper for Names {
    fn keep(&self, name: &str, file: BorrowedFd<'_>) -> io::Result<()> {
        self.store.keep(&format!("{}{name}", self.prefix), file)
    }

    fn forget(&self, name: &str) {
        self.store.forget(&format!("{}{name}", self.prefix));
    }
}

/// The Unix socket to which the VMM connects for a guest's connection to `port`.
pub(super) fn hybrid_path(path: &Path, port: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("_{port}"));
    name.into()
}
