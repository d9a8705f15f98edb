//! A connection to a far server, which no thread waits for.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use nbd::uri::Place;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, VsockAddr,
        connect, getsockopt, setsockopt, socket, sockopt,
    },
};
use tokio::time::{sleep, timeout};

use crate::{shell, sys::socket::Socket, tenant::Tenant};

/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a Unix socket is tried whose queue is full.
const PAUSE: Duration = Duration::from_millis(20);

/// Connects, for a client of `tenant`; `None`: at the start, on a thread that nobody else needs.
pub(super) async fn dial(place: &Place, tenant: Option<&Arc<Tenant>>) -> io::Result<Socket> {
    match place {
        Place::Unix { socket } => {
            let address = match socket.as_slice() {
                [0, name @ ..] => UnixAddr::new_abstract(name)?,
                path => UnixAddr::new(path)?,
            };
            within(AddressFamily::Unix, &address).await
        }
        Place::Tcp { host, port } => {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for address in addresses(host, *port, tenant).await? {
                let family =
                    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                match within(family, &SockaddrStorage::from(address)).await {
                    Ok(socket) => {
                        setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
                        return Ok(socket);
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        Place::Vsock { cid, port } => {
            within(AddressFamily::Vsock, &VsockAddr::new(*cid, *port)).await
        }
    }
}

/// The addresses of a host. A name's are asked of a name server by a call that blocks: no more of a tenant's clients
/// wait for that at once than may run commands.
async fn addresses(
    host: &str,
    port: u16,
    tenant: Option<&Arc<Tenant>>,
) -> io::Result<Vec<SocketAddr>> {
    let of = (host.to_owned(), port);
    let ask = move || of.to_socket_addrs().map(Vec::from_iter);
    let Some(tenant) = tenant.filter(|_| host.parse::<std::net::IpAddr>().is_err()) else {
        return ask();
    };
    let _turn = shell::turn(tenant).await;
    let asked = tenant.run(ask).await;
    asked
        .unwrap_or_else(|| Err(io::Error::other("a bug in agent: asking for its address panicked")))
}

async fn within(family: AddressFamily, address: &(impl SockaddrLike + Sync)) -> io::Result<Socket> {
    let late = |_| Err(io::ErrorKind::TimedOut.into());
    timeout(PATIENCE, to(family, address)).await.unwrap_or_else(late)
}

async fn to(family: AddressFamily, address: &(impl SockaddrLike + Sync)) -> io::Result<Socket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    loop {
        match connect(fd.as_raw_fd(), address) {
            Ok(()) => return Socket::new(fd, None),
            Err(Errno::EINPROGRESS | Errno::EINTR) => break,
            // The server does not accept as fast as others connect.
            Err(Errno::EAGAIN) => sleep(PAUSE).await,
            Err(errno) => return Err(errno.into()),
        }
    }
    let socket = Socket::new(fd, None)?;
    socket.writable().await?;
    match getsockopt(&socket, sockopt::SocketError)? {
        0 => Ok(socket),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
