//! Who is at the other end of a connection: one type, printed one way in every log line.

use std::{fmt, net::SocketAddr};

/// `VMADDR_CID_HYPERVISOR` and the two after it, vsock(7): never a guest.
const FIRST_GUEST: u32 = 3;

/// What is known of the other end when a connection is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// AF_VSOCK: the peer's CID and port.
    Vsock { cid: u32, port: u32 },
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix socket: who connected, as the kernel says (SO_PEERCRED, unix(7)).
    Unix { pid: i32, uid: u32, gid: u32 },
}

impl Peer {
    /// A virtual machine of this host, as far as the CID tells.
    pub fn is_guest(&self) -> bool {
        matches!(self, Self::Vsock { cid, .. } if *cid >= FIRST_GUEST && *cid != u32::MAX)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix { pid, uid, gid } => write!(f, "unix:pid={pid},uid={uid},gid={gid}"),
        }
    }
}
