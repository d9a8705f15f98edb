//! Listeners for virtual machines whose vsock device is not the kernel's. One path is one VM.
//!
//! `vhost-user`: the VMM connects, and the agent implements the guest's device (`vsock_device`). `hybrid`: the VMM
//! (Firecracker, Cloud Hypervisor) implements the device. It turns a guest's connection to CID 2 and a port into a
//! connection to the Unix socket `PATH_PORT`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use vsock_cid::GuestCid;
use vsock_device::{Host, Place};

use super::Accepted;
use super::{Cause, Rights, unix};
use crate::peer::Peer;

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
    ) -> Result<Self, Cause> {
        let socket = unix::Listener::take_over(path, rights).await?;
        let place = Place { path: path.into(), cid, port };
        let host = socket.for_a_thread().and_then(|listener| Host::start(listener, place));
        Ok(Self::VhostUser { host: host.map_err(Cause::System)?, socket })
    }

    pub(super) async fn hybrid(path: &Path, port: u32, rights: &Rights) -> Result<Self, Cause> {
        let socket = unix::Listener::take_over(&hybrid_path(path, port), rights).await?;
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

/// The Unix socket to which the VMM connects for a guest's connection to `port`.
pub(super) fn hybrid_path(path: &Path, port: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("_{port}"));
    name.into()
}
