//! AF_VSOCK listeners: tokio-vsock's, with a window that is worth a disk.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsFd, OwnedFd},
};

use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use super::{BACKLOG, Cause};
use crate::{peer::Peer, sys};

/// Bytes that a guest may have on the way to us on one connection. The kernel's default, 256 KiB,
/// stalls large writes; this is also the most kernel memory that a connection can pin.
const WINDOW: u64 = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Listener {
    socket: VsockListener,
    /// `None`: every CID of this machine.
    pub(super) cid: Option<u32>,
    pub(super) port: u32,
}

impl Listener {
    pub(super) fn bind(cid: Option<u32>, port: u32) -> Result<Self, Cause> {
        let address = VsockAddr::new(cid.unwrap_or(VMADDR_CID_ANY), port);
        let socket = VsockListener::bind(address).map_err(Cause::System)?;
        // Accepted sockets inherit it.
        prepare(&socket);
        sys::vsock::set_backlog(&socket, BACKLOG).map_err(Cause::System)?;
        let port = socket.local_addr().map_err(Cause::System)?.port();
        Ok(Self { socket, cid, port })
    }

    /// A socket that listens already. Its backlog is what whoever opened it wanted.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let socket = VsockListener::from(socket);
        prepare(&socket);
        let address = socket.local_addr()?;
        let cid = Some(address.cid()).filter(|cid| *cid != VMADDR_CID_ANY);
        Ok(Self { socket, cid, port: address.port() })
    }

    pub(super) async fn accept(&self) -> io::Result<(OwnedFd, Peer)> {
        // The stream is not wanted as tokio's: the session registers the descriptor on its thread.
        let (stream, peer) = poll_fn(|context| self.socket.poll_accept_std(context)).await?;
        // The listener is bound to every CID of this machine, the connection came to one of them.
        let to = stream.local_addr()?.cid();
        Ok((stream.into(), Peer::Vsock { cid: peer.cid(), port: peer.port(), to }))
    }
}

/// Widens the window of a listener or a connection. A kernel that refuses serves more slowly, no
/// worse.
pub(super) fn prepare(socket: &impl AsFd) {
    if let Err(error) = sys::vsock::set_window(socket, WINDOW) {
        tracing::debug!("the vsock window stays at its default: {error}");
    }
}
