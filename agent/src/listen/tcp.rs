//! TCP listeners, one a local address.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use nix::sys::socket::{
    setsockopt,
    sockopt::{Ipv6V6Only, KeepAlive, TcpNoDelay},
};
use tokio::net::{TcpListener, TcpSocket, lookup_host};

use super::{BACKLOG, Cause, Family};
use crate::peer::Peer;

/// How often a free port is looked for that every address has.
const TRIES: usize = 16;

#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    pub(super) address: SocketAddr,
}

/// Listens on every address of `host` in `family`, all on one port. Without a host these are the
/// wildcard addresses of both families. An address whose family this machine lacks, or that it
/// does not have, is passed over if there is another.
pub(super) async fn bind(
    host: Option<&str>,
    port: u16,
    family: Family,
) -> Result<Vec<Listener>, Cause> {
    let addresses = addresses(host, port, family).await?;
    for _ in 1..TRIES {
        match bind_all(&addresses) {
            // The port that was free on the first address is taken on another: ask for a new one.
            Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result.map_err(Cause::System),
        }
    }
    bind_all(&addresses).map_err(Cause::System)
}

fn bind_all(addresses: &[SocketAddr]) -> io::Result<Vec<Listener>> {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut failure = None;
    for &(mut address) in addresses {
        if let Some(first) = listeners.first() {
            address.set_port(first.address.port());
        }
        match Listener::bind(address) {
            Ok(listener) => listeners.push(listener),
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
        // On a thread of its own: a name server that is silent does not keep TERM from ending the start.
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
        // The resolver may say one address twice.
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

impl Listener {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            let socket = TcpSocket::new_v6()?;
            // IPv4 has a listener of its own, so that peers are never IPv4 in IPv6 clothes.
            setsockopt(&socket, Ipv6V6Only, &true)?;
            socket
        };
        // Connections of an earlier agent that linger do not keep this one from its port.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// A socket that listens already.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::net::TcpListener::from(socket);
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket: TcpListener::from_std(socket)?, address })
    }

    /// Connections that are accepted from now on have it from their listener.
    pub(super) fn keep_alive(&self) -> io::Result<()> {
        keep_alive(&self.socket)
    }

    pub(super) async fn accept(&self) -> io::Result<(OwnedFd, Peer)> {
        let (stream, peer) = self.socket.accept().await?;
        let peer = Peer::Tcp(plain(peer));
        prepare(&stream, &peer);
        // The session registers the descriptor on a thread of its own.
        Ok((stream.into_std()?.into(), peer))
    }
}

/// Takes an IPv4 address out of its IPv6 clothes: in those it comes to the sockets of systemd, which
/// are of both families.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if let Some(v4) = v6.ip().to_ipv4_mapped() => (v4, v6.port()).into(),
        _ => address,
    }
}

/// SO_KEEPALIVE, tcp(7).
pub(super) fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, KeepAlive, &true)?)
}

/// For a new connection: replies are gathered here; the kernel must not hold them back once more.
pub(super) fn prepare(stream: &impl AsFd, peer: &Peer) {
    // If the peer is gone already, the session will see it.
    if let Err(error) = setsockopt(stream, TcpNoDelay, &true) {
        tracing::debug!("TCP_NODELAY on the connection from {peer}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_ipv4_whatever_it_comes_by() {
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
