//! The peer at the other end of a connection: one type, printed in one form in every log line.

use std::{fmt, net::SocketAddr, path::Path, sync::Arc};

use vsock_cid::Cid;

/// What is known about the other end when a connection is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Peer {
    /// AF_VSOCK: the peer's CID and port, and the CID of this machine that it connected to.
    Vsock { cid: Cid, port: u32, to: Cid },
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix socket: the process that connected, according to the kernel (SO_PEERCRED, unix(7)).
    Unix { pid: i32, uid: u32, gid: u32 },
    /// A guest whose vsock device is implemented by this agent. `path` is the socket of its VM and of no other; `port`
    /// is the guest's port, if the VMM reports it.
    Vm { path: Arc<Path>, port: Option<u32> },
    /// Pipes on stdin and stdout. The peer is the process that started the agent; nothing else is known about it.
    Pipe,
}

/// The kind of a vsock peer, determined from the addresses of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VsockKind {
    /// A virtual machine of this host, which connected to the host (CID 2).
    Guest,
    /// A process of this machine itself (CID 1).
    Local,
    /// The host of this machine if it is a guest (CID 2), or its hypervisor (CID 0).
    Hypervisor,
    /// A peer with a guest's CID that connected to a CID other than the host's. This machine is a guest itself, and its
    /// host forwarded another of its guests. The CID of that guest belongs to the host's numbering, not to that of our
    /// guests.
    Sibling,
}

impl Peer {
    /// Whether it is a virtual machine of this host, as far as the CIDs show.
    pub(crate) fn is_guest(&self) -> bool {
        matches!(self, Self::Vm { .. }) || self.vsock_kind() == Some(VsockKind::Guest)
    }

    /// The kind of vsock peer; `None` if it did not connect over vsock.
    pub(crate) fn vsock_kind(&self) -> Option<VsockKind> {
        let Self::Vsock { cid, to, .. } = self else { return None };
        Some(match (*cid, *to) {
            (Cid::LOCAL, _) => VsockKind::Local,
            (Cid::HYPERVISOR | Cid::HOST, _) => VsockKind::Hypervisor,
            (Cid::ANY, _) => VsockKind::Sibling,
            (_, Cid::HOST) => VsockKind::Guest,
            _ => VsockKind::Sibling,
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port, to } => {
                write!(f, "vsock:{cid}:{port}")?;
                match self.vsock_kind() {
                    Some(VsockKind::Local) => f.write_str("(local)"),
                    Some(VsockKind::Hypervisor) => f.write_str("(hypervisor)"),
                    Some(VsockKind::Sibling) => write!(f, "(to CID {to})"),
                    Some(VsockKind::Guest) | None => Ok(()),
                }
            }
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix { pid, uid, gid } => write!(f, "unix:pid={pid},uid={uid},gid={gid}"),
            Self::Vm { path, port: None } => write!(f, "vm:{}", path.display()),
            Self::Vm { path, port: Some(port) } => write!(f, "vm:{}:{port}", path.display()),
            Self::Pipe => f.write_str("pipe"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_a_cid_of_its_own_and_came_to_the_host() {
        use VsockKind::{Guest, Hypervisor, Local, Sibling};
        for (cid, to, kind, printed) in [
            (3, 2, Guest, "vsock:3:4711"),
            (u32::MAX - 1, 2, Guest, "vsock:4294967294:4711"),
            // A process of this machine that connects to CID 1, to the host's CID, and to its own CID as a guest.
            (1, 1, Local, "vsock:1:4711(local)"),
            (1, 2, Local, "vsock:1:4711(local)"),
            (1, 5, Local, "vsock:1:4711(local)"),
            (2, 5, Hypervisor, "vsock:2:4711(hypervisor)"),
            (0, 5, Hypervisor, "vsock:0:4711(hypervisor)"),
            (7, 5, Sibling, "vsock:7:4711(to CID 5)"),
            (7, 1, Sibling, "vsock:7:4711(to CID 1)"),
            (u32::MAX, 2, Sibling, "vsock:4294967295:4711(to CID 2)"),
        ] {
            let peer = Peer::Vsock { cid: Cid::new(cid), port: 4711, to: Cid::new(to) };
            assert_eq!(peer.vsock_kind(), Some(kind), "{peer:?}");
            assert_eq!(peer.is_guest(), kind == Guest, "{peer:?}");
            assert_eq!(peer.to_string(), printed);
        }
    }

    #[test]
    fn a_peer_that_did_not_connect_over_vsock_is_no_guest() {
        for (peer, printed) in [
            (Peer::Tcp("[::1]:7".parse().unwrap()), "tcp:[::1]:7"),
            (Peer::Unix { pid: 1, uid: 2, gid: 3 }, "unix:pid=1,uid=2,gid=3"),
            (Peer::Pipe, "pipe"),
        ] {
            assert_eq!(peer.vsock_kind(), None);
            assert!(!peer.is_guest());
            assert_eq!(peer.to_string(), printed);
        }
    }
}
