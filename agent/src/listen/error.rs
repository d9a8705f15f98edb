//! Why listening on an address failed, and what to do about it.

use std::{fmt, io, path::PathBuf};

use doctor::host;
use thiserror::Error;

use super::{Address, Family};

/// Listening on an address failed. The cause is the source.
#[derive(Debug, Error)]
#[error("cannot listen on {address}")]
pub(crate) struct BindError {
    pub address: Address,
    pub source: Cause,
}

/// Why there is no listening socket.
#[derive(Debug, Error)]
pub(crate) enum Cause {
    #[error("the name '{host}' was not found")]
    Lookup { host: String, source: io::Error },
    #[error("'{host}' has no {family} address")]
    NoAddress { host: String, family: Family },
    #[error("the private directory {} cannot be made", .path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("the file is not a socket")]
    NotASocket,
    #[error("a socket file is there, and no process listens on it: its process was killed")]
    Stale,
    #[error(
        "an unused socket file is there, and it cannot be replaced while another process holds a lock on \
         the directory {}", .0.display()
    )]
    Locked(PathBuf),
    #[error("another process listens there")]
    Live,
    #[error("no user is called '{0}' (owner=)")]
    NoUser(String),
    #[error("no group is called '{0}' (group=)")]
    NoGroup(String),
    #[error("its socket cannot be given away")]
    Owner(#[source] io::Error),
    #[error("its socket cannot get the mode {mode:04o}")]
    Mode { mode: u32, source: io::Error },
    /// A system call failed. Its own error text is enough.
    #[error(transparent)]
    System(io::Error),
}

impl BindError {
    /// What to do about it, if that is known.
    pub(crate) fn hint(&self) -> Option<String> {
        match (&self.source, &self.address) {
            (Cause::Lookup { .. }, _) => Some("give an address instead of a name".into()),
            (Cause::NoAddress { family, .. }, _) => Some(match family {
                Family::V4 => "leave -4 out, or give an IPv4 address".into(),
                Family::V6 => "leave -6 out, or give an IPv6 address".into(),
                Family::Any => "give an address instead of a name".into(),
            }),
            (Cause::Directory { .. }, _) => {
                Some("let TMPDIR name a directory that this user may write to".into())
            }
            (Cause::NoUser(_) | Cause::NoGroup(_), _) => {
                Some("'getent passwd' and 'getent group' list those that there are".into())
            }
            (Cause::Owner(_), _) => Some(
                "only root (CAP_CHOWN) gives a socket to another user; a group of one's own is open \
                 to all"
                    .into(),
            ),
            (Cause::NotASocket, _) => Some("choose another path".into()),
            (Cause::Stale, Address::Unix(path)) => {
                Some(format!("remove it ('rm {}') and start again", path.display()))
            }
            (Cause::Live, Address::Unix(path) | Address::VhostUser { path, .. }) => {
                Some(stop_that(path.display()))
            }
            (Cause::Locked(directory), _) => Some(format!(
                "'lslocks' and 'fuser {}' name it; remove the socket yourself, or use a directory that \
                 only trusted users may read",
                directory.display()
            )),
            (Cause::Live, Address::Hybrid { path, port, .. }) => {
                Some(stop_that(format_args!("{}_{port}", path.display())))
            }
            (Cause::System(error), address) => errno(error.raw_os_error()?, address),
            (Cause::Stale | Cause::Live | Cause::Mode { .. }, _) => None,
        }
    }
}

fn stop_that(path: impl fmt::Display) -> String {
    format!("choose another path, or stop that process ('ss -lxp src {path}' names it)")
}

fn errno(errno: i32, address: &Address) -> Option<String> {
    if let Address::Vsock { cid, port } = address
        && let Some(hint) = host::hint_of_bind(errno, *cid, *port)
    {
        return Some(hint);
    }
    Some(match (address, errno) {
        (Address::Tcp { port, .. }, libc::EADDRINUSE) => format!(
            "another process, or a listener named before this one, has the port ('ss -lntp sport = :{port}' names it): choose another, or stop that"
        ),
        (Address::Tcp { .. }, libc::EADDRNOTAVAIL) => {
            "the address is none of this machine's ('ip address' lists them)".into()
        }
        (Address::Tcp { port, .. }, libc::EACCES) if *port < 1024 && *port > 0 => {
            "ports below 1024 need CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start".into()
        }
        (Address::Tcp { .. }, libc::EAFNOSUPPORT) => {
            "this machine has no such protocol: try -4 or -6".into()
        }
        (Address::Unix(path) | Address::VhostUser { path, .. } | Address::Hybrid { path, .. }, libc::ENOENT) => {
            let parent = path.parent().unwrap_or(path);
            format!("the directory is missing: 'mkdir -p {}'", parent.display())
        }
        (Address::Unix(_) | Address::VhostUser { .. } | Address::Hybrid { .. }, libc::EACCES | libc::EPERM | libc::EROFS) => {
            "choose a directory that this user may write to".into()
        }
        (_, libc::EMFILE | libc::ENFILE) => "raise the limit of open files ('ulimit -n')".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_failure_has_its_hint() {
        for (address, errno, part) in [
            ("tcp:10809", libc::EADDRINUSE, "ss -lntp sport = :10809"),
            ("tcp:192.0.2.1:1", libc::EADDRNOTAVAIL, "ip address"),
            ("tcp:80", libc::EACCES, "CAP_NET_BIND_SERVICE"),
            ("tcp:[::1]:8000", libc::EAFNOSUPPORT, "-4"),
            ("vsock:10809", libc::EADDRINUSE, "ss -lp --vsock"),
            ("vsock:77:10809", libc::EADDRNOTAVAIL, "CID 77 is none of this machine's"),
            ("vsock:10809", libc::EAFNOSUPPORT, "agent doctor"),
            ("vsock:10809", libc::EPERM, "agent doctor"),
            ("vsock:80", libc::EACCES, "CAP_NET_BIND_SERVICE"),
            ("unix:/none/such", libc::ENOENT, "mkdir -p /none"),
            ("unix:/proc/x", libc::EACCES, "may write"),
            ("tcp:1", libc::EMFILE, "ulimit"),
        ] {
            let source = Cause::System(io::Error::from_raw_os_error(errno));
            let error = BindError { address: address.parse().unwrap(), source };
            let hint = error.hint().expect(address);
            assert!(hint.contains(part), "{address}: {hint}");
        }
    }
}
