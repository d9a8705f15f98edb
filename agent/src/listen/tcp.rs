//! TCP listeners, one per local address.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{
    SockaddrStorage, getsockname, getsockopt, setsockopt,
    sockopt::{Ipv6V6Only, KeepAlive, TcpNoDelay},
};
use tokio::net::{TcpListener, TcpSocket, lookup_host};

use super::{
    BACKLOG, Cause, Family,
    descriptor::{self, Kind},
    kept,
};
use crate::{fd_store::Kept, peer::Peer};

/// How many ports are tried to find one that is free on every address.
const TRIES: usize = 16;

#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    pub(super) address: SocketAddr,
}

/// Listens on every address of `host` in `family`, all on one port. Without a host these are the wildcard addresses of
/// both families. If the machine lacks an address or its family, that address is skipped, unless it is the only one.
pub(super) async fn bind(
    host: Option<&str>,
    port: u16,
    family: Family,
    kept: &mut Kept,
) -> Result<Vec<Listener>, Cause> {
    let addresses = addresses(host, port, family).await?;
    for _ in 1..TRIES {
        match bind_all(&addresses, kept) {
            // The port is free on the first address and taken on another. The next round asks for a new port.
            Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result.map_err(Cause::System),
        }
    }
    bind_all(&addresses, kept).map_err(Cause::System)
}

fn bind_all(addresses: &[SocketAddr], kept: &mut Kept) -> io::Result<Vec<Listener>> {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut failure = None;
    for &(mut address) in addresses {
        // The system chooses port 0 anew at each start.
        let keeps = address.port() != 0;
        if let Some(listener) = keeps.then(|| Listener::take(address, kept)).flatten() {
            listeners.push(listener);
            continue;
        }
        if let Some(first) = listeners.first() {
            address.set_port(first.address.port());
        }
        match Listener::bind(address) {
            Ok(listener) => {
                if keeps {
                    let name = name(address);
                    kept::keep(kept, name.as_bytes(), kept::NO_FILE, listener.socket.as_fd());
                }
                listeners.push(listener);
            }
            Err(error) if not_here(&error) => {
                tracing::debug!("passed over tcp:{address}: {error}");
                failure = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match failure {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

fn not_here(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

async fn addresses(
    host: Option<&str>,
    port: u16,
    family: Family,
) -> Result<Vec<SocketAddr>, Cause> {
    let all = match host {
        None => {
            vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
        }
        // The lookup runs on a thread of its own, so that TERM ends the start even if a name server is silent.
        Some(host) => lookup_host((host, port))
            .await
            .map_err(|source| Cause::Lookup { host: host.to_owned(), source })?
            .collect(),
    };
    let mut wanted: Vec<SocketAddr> = Vec::new();
    for address in all {
        let of_family = match family {
            Family::Any => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        };
        // The resolver may return one address twice.
        if of_family && !wanted.contains(&address) {
            wanted.push(address);
        }
    }
    if wanted.is_empty() {
        let host = host.unwrap_or_default().to_owned();
        return Err(Cause::NoAddress { host, family });
    }
    Ok(wanted)
}

/// The name of a listener in the store.
fn name(address: SocketAddr) -> String {
    format!("tcp:{address}")
}

impl Listener {
    /// Takes the socket that an earlier process kept for this address, if it is still bound to it.
    fn take(address: SocketAddr, kept: &mut Kept) -> Option<Self> {
        let is_it = |socket: BorrowedFd<'_>, _: &str| {
            let bound = getsockname::<SockaddrStorage>(socket.as_raw_fd());
            let alone = address.is_ipv4() || getsockopt(&socket, Ipv6V6Only) == Ok(true);
            alone && bound.is_ok_and(|bound| descriptor::address(&bound) == Some(address))
        };
        let socket = kept::take(kept, name(address).as_bytes(), Kind::Tcp, is_it)?;
        Self::adopt(socket).ok()
    }

    fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            let socket = TcpSocket::new_v6()?;
            // IPv4 has a listener of its own, so that no peer has an IPv4-mapped IPv6 address.
            setsockopt(&socket, Ipv6V6Only, &true)?;
            socket
        };
        // Lingering connections of an earlier agent must not keep this one from its port.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Takes over a socket that listens already.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::net::TcpListener::from(socket);
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket: TcpListener::from_std(socket)?, address })
    }

    /// Sets SO_KEEPALIVE on the listener. Connections accepted from now on inherit it.
    pub(super) fn keep_alive(&self) -> io::Result<()> {
        keep_alive(&self.socket)
    }

    pub(super) async fn accept(&self) -> io::Result<(OwnedFd, Peer)> {
        let (stream, peer) = self.socket.accept().await?;
        let peer = Peer::Tcp(plain(peer));
        prepare(&stream, &peer);
        // The session registers the descriptor on its own thread.
        Ok((stream.into_std()?.into(), peer))
    }
}

/// Converts an IPv4-mapped IPv6 address to IPv4. Sockets from systemd serve both families and yield such addresses.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if let Some(v4) = v6.ip().to_ipv4_mapped() => (v4, v6.port()).into(),
        _ => address,
    }
}

/// Sets SO_KEEPALIVE, tcp(7).
pub(super) fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, KeepAlive, &true)?)
}

/// Prepares a new connection. The session gathers its replies itself, so the kernel must not delay them once more.
pub(super) fn prepare(stream: &impl AsFd, peer: &Peer) {
    // If the peer has gone already, the session will find out.
    if let Err(error) = setsockopt(stream, TcpNoDelay, &true) {
        tracing::debug!("TCP_NODELAY on the connection from {peer}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_mapped_addresses_become_ipv4() {
        for (address, printed) in [
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("[fe80::1%3]:7", "[fe80::1%3]:7"),
        ] {
            assert_eq!(plain(address.parse().unwrap()).to_string(), printed);
        }
    }
}
