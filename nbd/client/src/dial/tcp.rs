//! TCP: for servers on this machine and guests that do have a network.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use super::DialError;
use crate::timeout;

/// How long one address may take, or as long as a server may keep silent if that is shorter.
const PATIENCE: Duration = Duration::from_secs(10);

/// An address, or both of `localhost`.
pub(super) fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let ips = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) if host.eq_ignore_ascii_case("localhost") => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Err(_) => return Err(DialError::Name(host.to_owned())),
    };
    Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Connects to the first that answers; the error is the first one's.
pub(super) fn connect(addresses: &[SocketAddr]) -> io::Result<OwnedFd> {
    let mut first = None;
    let limit = timeout::limit().map_or(PATIENCE, |limit| limit.min(PATIENCE));
    for address in addresses {
        match TcpStream::connect_timeout(address, limit) {
            Ok(stream) => {
                // A request is small and waited for.
                stream.set_nodelay(true)?;
                return Ok(stream.into());
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
            "this machine has no way to there: use nbd+vsock://2/ for a disk of the host".to_owned()
        }
        io::ErrorKind::TimedOut => "nothing answers there: a firewall, or the wrong address".into(),
        _ => "check the address".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_taken() {
        assert_eq!(addresses("127.0.0.1", 7).unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        assert_eq!(addresses("::1", 7).unwrap(), ["[::1]:7".parse().unwrap()]);
        assert_eq!(addresses("LocalHost", 7).unwrap().len(), 2);
        assert!(matches!(addresses("example.com", 7), Err(DialError::Name(_))));
    }
}
