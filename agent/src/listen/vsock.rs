//! AF_VSOCK listeners: tokio-vsock's, with a larger receive window.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{VsockAddr as VsockSockAddr, getsockname};
use tokio_vsock::{VsockAddr, VsockListener};
use vsock_cid::Cid;

use super::{Address, BACKLOG, Cause, descriptor::Kind, kept};
use crate::{fd_store::Kept, peer::Peer, sys};

/// Bytes that a guest may have in flight to the agent on one connection. The kernel's default of
/// 256 KiB stalls large writes. This is also the most kernel memory that a connection can pin.
const WINDOW: u64 = 1024 * 1024;

/// As a port: any free one.
const VMADDR_PORT_ANY: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Listener {
    socket: VsockListener,
    /// `None`: every CID of this machine.
    pub(super) cid: Option<Cid>,
    pub(super) port: u32,
}

impl Listener {
    pub(super) fn bind(cid: Option<Cid>, port: u32, kept: &mut Kept) -> Result<Self, Cause> {
        // The system chooses the port anew at each start.
        let name = (port != VMADDR_PORT_ANY).then(|| Address::Vsock { cid, port }.to_string());
        if let Some(name) = &name {
            let is_it = |socket: BorrowedFd<'_>, _: &str| {
                getsockname::<VsockSockAddr>(socket.as_raw_fd())
                    .is_ok_and(|at| (at.cid(), at.port()) == (cid.unwrap_or(Cid::ANY).get(), port))
            };
            if let Some(socket) = kept::take(kept, name.as_bytes(), Kind::Vsock, is_it) {
                return Self::adopt(socket).map_err(Cause::System);
            }
        }
        let address = VsockAddr::new(cid.unwrap_or(Cid::ANY).get(), port);
        let socket = VsockListener::bind(address).map_err(Cause::System)?;
        // Accepted sockets inherit the window.
        prepare(&socket);
        sys::vsock::set_backlog(&socket, BACKLOG).map_err(Cause::System)?;
        let port = socket.local_addr().map_err(Cause::System)?.port();
        if let Some(name) = &name {
            kept::keep(kept, name.as_bytes(), kept::NO_FILE, socket.as_fd());
        }
        Ok(Self { socket, cid, port })
    }

    /// Takes over a socket that listens already. Its backlog stays as its opener set it.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let socket = VsockListener::from(socket);
        prepare(&socket);
        let address = socket.local_addr()?;
        let cid = Some(Cid::new(address.cid())).filter(|cid| *cid != Cid::ANY);
        Ok(Self { socket, cid, port: address.port() })
    }

    pub(super) async fn accept(&self) -> io::Result<(OwnedFd, Peer)> {
        // A raw descriptor, not a tokio stream: the session registers it on its own thread.
        let (stream, peer) = poll_fn(|context| self.socket.poll_accept_std(context)).await?;
        // The listener may be bound to every CID of this machine. The connection came to one of
        // them.
        let to = Cid::new(stream.local_addr()?.cid());
        let cid = Cid::new(peer.cid());
        Ok((stream.into(), Peer::Vsock { cid, port: peer.port(), to }))
    }
}

/// Widens the window of a listener or a connection. If the kernel refuses, connections are slower
/// but work.
pub(super) fn prepare(socket: &impl AsFd) {
    if let Err(error) = sys::vsock::set_window(socket, WINDOW) {
        tracing::debug!("the vsock window stays at its default: {error}");
    }
}
