//! TCP, for servers on this machine and for guests that have a network.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockaddrStorage, setsockopt, sockopt};

use super::attempt;
use crate::{socket::Socket, timeout::Timeout, wait::Wait};

/// How long one address may take, unless the timeout is shorter.
const LIMIT: Duration = Duration::from_secs(10);

/// The addresses of a host. An address stands for itself, `localhost` is both loopback addresses
/// whatever /etc/hosts says, and any other name is looked up.
pub(super) async fn addresses(
    host: &str,
    port: u16,
    wait: &impl Wait,
) -> io::Result<Vec<SocketAddr>> {
    let ips = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) if host.eq_ignore_ascii_case("localhost") => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Err(_) => return wait.resolve(host, port).await,
    };
    Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Connects to the first address that answers. If none does, the error is that of the first
/// address.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    timeout: Timeout,
    wait: &impl Wait,
) -> io::Result<Socket> {
    let mut first = None;
    let timeout = match timeout.limit() {
        Some(limit) if limit <= LIMIT => timeout,
        _ => Timeout::new(LIMIT),
    };
    for address in addresses {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let address = SockaddrStorage::from(*address);
        match attempt::connect(family, &address, timeout, wait).await {
            Ok(socket) => {
                // Requests are small, and the caller waits for each.
                setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
                return Ok(socket);
            }
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

pub(super) fn hint(error: &io::Error, port: u16) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens on TCP port {port} there: is the server running?")
        }
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            "this machine has no route there; a guest reaches its host by nbd+vsock://2/".to_owned()
        }
        io::ErrorKind::TimedOut => "nothing answers there: a firewall, or the wrong address".into(),
        _ => "check the address".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{Block, block_on};

    #[test]
    fn addresses_and_localhost_need_no_lookup() {
        let addresses = |host| block_on(addresses(host, 7, &Block)).unwrap();
        assert_eq!(addresses("127.0.0.1"), ["127.0.0.1:7".parse().unwrap()]);
        assert_eq!(addresses("::1"), ["[::1]:7".parse().unwrap()]);
        assert_eq!(addresses("LocalHost").len(), 2);
    }
}
