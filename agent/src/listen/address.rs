//! Listening addresses as text: the argument of `--listen`, and the form in log lines and errors.
//!
//! `cli` makes these values. Nothing here opens a socket or looks up a name.

use std::{fmt, path::PathBuf, str::FromStr};

use thiserror::Error;
use vsock_cid::{Cid, GuestCid};

use super::Rights;

/// The port of NBD, by custom also used over vsock.
const DEFAULT_PORT: u32 = nbd::wire::DEFAULT_PORT as u32;
/// Maximum length of the path of a Unix socket in bytes: `sun_path` without its final zero, unix(7).
const UNIX_PATH_MAX: usize = 107;

/// Which of a host name's addresses are used. Without a host name: which wildcard addresses are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Family {
    #[default]
    Any,
    V4,
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "IP",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A place to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// AF_VSOCK. `cid` is `None` for every CID of this machine. Port 2^32-1 (`VMADDR_PORT_ANY`) is any free port.
    Vsock { cid: Option<Cid>, port: u32 },
    /// TCP. `host` is `None` for every address of this machine. Port 0 is any free port.
    Tcp { host: Option<String>, port: u16, family: Family },
    /// A VM whose VMM connects to this path (vhost-user). The agent implements the guest's vsock device. `cid` is the
    /// guest's CID inside this VM, and `port` is the port that the guest connects to.
    VhostUser { path: PathBuf, cid: GuestCid, port: u32, rights: Rights },
    /// A VM whose VMM (Firecracker, Cloud Hypervisor) has its vsock device at this path. The VMM connects to
    /// `PATH_PORT`.
    Hybrid { path: PathBuf, port: u32, rights: Rights },
    /// A Unix socket that is made at this path and removed at exit.
    Unix(PathBuf),
    /// A Unix socket in a new directory that only this user may enter.
    Private,
}

/// Why a text is not an address. The caller's message quotes the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum AddressError {
    #[error(
        "write vsock:PORT, vsock:CID:PORT, tcp:HOST:PORT, unix:PATH, vhost-user:PATH[,cid=N][,port=P] \
         or hybrid:PATH[,port=P] (these two also with mode=, owner= and group=)"
    )]
    Form,
    #[error("'{0}' is not a vsock port (0 to 4294967295)")]
    VsockPort(String),
    #[error("'{0}' is not a CID (a number from 0 to 4294967295; leave it out to listen on all)")]
    Cid(String),
    #[error("'{0}' is not a TCP port (0 to 65535)")]
    TcpPort(String),
    #[error("an IPv6 address stands in brackets: tcp:[ADDRESS]:PORT")]
    Brackets,
    #[error("'{0}' is not known here; {1}")]
    Setting(String, &'static str),
    #[error("'{0}' is not a guest's CID (3 to 4294967294)")]
    GuestCid(String),
    #[error("'{0}' is not the mode of a socket (three octal digits, as in mode=0660)")]
    Mode(String),
    #[error("{0}= is empty; give a name or a number")]
    NoName(&'static str),
    #[error("the path of the socket is empty")]
    NoPath,
    #[error(
        "the path has {0} bytes, and the kernel takes at most {UNIX_PATH_MAX}: choose a shorter one"
    )]
    LongPath(usize),
}

impl Address {
    /// A Unix socket. `-` stands for a private one.
    pub(crate) fn unix(path: PathBuf) -> Result<Self, AddressError> {
        match path.as_os_str().len() {
            0 => Err(AddressError::NoPath),
            _ if path.as_os_str() == "-" => Ok(Self::Private),
            len if len > UNIX_PATH_MAX => Err(AddressError::LongPath(len)),
            _ => Ok(Self::Unix(path)),
        }
    }

    /// TCP with the given host and port.
    pub(crate) fn tcp(
        host: Option<&str>,
        port: &str,
        family: Family,
    ) -> Result<Self, AddressError> {
        let number = number(port).ok_or_else(|| AddressError::TcpPort(port.to_owned()))?;
        Ok(Self::Tcp { host: host.map(str::to_owned), port: number, family })
    }

    /// The given vsock port on every CID of this machine.
    pub(crate) fn vsock(port: &str) -> Result<Self, AddressError> {
        let number = number(port).ok_or_else(|| AddressError::VsockPort(port.to_owned()))?;
        Ok(Self::Vsock { cid: None, port: number })
    }

    fn vhost_user(text: &str) -> Result<Self, AddressError> {
        let (path, settings) = path_and(text)?;
        let (mut cid, mut port) = (vsock_device::DEFAULT_CID, DEFAULT_PORT);
        let mut rights = Rights::default();
        for (key, value) in settings {
            match key {
                "cid" => {
                    let wrong = || AddressError::GuestCid(value.to_owned());
                    cid = number(value).and_then(GuestCid::of).ok_or_else(wrong)?;
                }
                "port" => port = vm_port(value)?,
                _ if rights.take(key, value)? => {}
                _ => {
                    let known = "cid=, port=, mode=, owner= and group= are";
                    return Err(AddressError::Setting(key.into(), known));
                }
            }
        }
        Ok(Self::VhostUser { path, cid, port, rights })
    }

    fn hybrid(text: &str) -> Result<Self, AddressError> {
        let (path, settings) = path_and(text)?;
        let (mut port, mut rights) = (DEFAULT_PORT, Rights::default());
        for (key, value) in settings {
            match key {
                "port" => port = vm_port(value)?,
                _ if rights.take(key, value)? => {}
                _ => {
                    let known = "port=, mode=, owner= and group= are";
                    return Err(AddressError::Setting(key.into(), known));
                }
            }
        }
        // The socket has a longer path: `PATH_PORT`.
        match super::vm::hybrid_path(&path, port).as_os_str().len() {
            len if len > UNIX_PATH_MAX => Err(AddressError::LongPath(len)),
            _ => Ok(Self::Hybrid { path, port, rights }),
        }
    }

    /// Whether the system chooses the port or path, so that two equal values are two different addresses.
    pub(crate) fn is_any_free(&self) -> bool {
        matches!(
            self,
            Self::Vsock { port: u32::MAX, .. } | Self::Tcp { port: 0, .. } | Self::Private
        )
    }
}

/// Keys and values.
type Settings<'a> = Vec<(&'a str, &'a str)>;

/// Splits `PATH[,KEY=VALUE]...`. A path that contains a comma cannot be written.
fn path_and(text: &str) -> Result<(PathBuf, Settings<'_>), AddressError> {
    let mut parts = text.split(',');
    let path = parts.next().unwrap_or_default();
    let settings = parts.map(|part| part.split_once('=').unwrap_or((part, ""))).collect();
    match path.len() {
        0 => Err(AddressError::NoPath),
        len if len > UNIX_PATH_MAX => Err(AddressError::LongPath(len)),
        _ => Ok((path.into(), settings)),
    }
}

/// A port of a VM's vsock: any but VMADDR_PORT_ANY, which is not a port.
fn vm_port(text: &str) -> Result<u32, AddressError> {
    let port = number(text).filter(|port| *port != u32::MAX);
    port.ok_or_else(|| AddressError::VsockPort(text.to_owned()))
}

/// An unsigned number in digits only. `str::parse` alone would accept "+1".
fn number<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (kind, rest) = text.split_once(':').ok_or(AddressError::Form)?;
        match kind {
            "unix" => Self::unix(PathBuf::from(rest)),
            "vhost-user" => Self::vhost_user(rest),
            "hybrid" => Self::hybrid(rest),
            "vsock" => match rest.split_once(':') {
                None | Some(("", _)) => Self::vsock(rest.trim_start_matches(':')),
                Some((cid, port)) => {
                    let cid: Cid = number(cid).ok_or_else(|| AddressError::Cid(cid.to_owned()))?;
                    let Self::Vsock { port, .. } = Self::vsock(port)? else { unreachable!() };
                    // VMADDR_CID_ANY is written by leaving the CID out.
                    Ok(Self::Vsock { cid: Some(cid).filter(|cid| *cid != Cid::ANY), port })
                }
            },
            "tcp" => {
                let Some((host, port)) = rest.rsplit_once(':') else {
                    return Self::tcp(None, rest, Family::Any);
                };
                let bare = match host.strip_prefix('[') {
                    Some(v6) => v6.strip_suffix(']').ok_or(AddressError::Brackets)?,
                    None if host.contains([':', ']']) => return Err(AddressError::Brackets),
                    None => host,
                };
                Self::tcp(Some(bare).filter(|bare| !bare.is_empty()), port, Family::Any)
            }
            _ => Err(AddressError::Form),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid: None, port } => write!(f, "vsock:{port}"),
            Self::Vsock { cid: Some(cid), port } => write!(f, "vsock:{cid}:{port}"),
            Self::Tcp { host: None, port, .. } => write!(f, "tcp:{port}"),
            Self::Tcp { host: Some(host), port, .. } if host.contains(':') => {
                write!(f, "tcp:[{host}]:{port}")
            }
            Self::Tcp { host: Some(host), port, .. } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::VhostUser { path, cid, port, rights } => {
                write!(f, "vhost-user:{},cid={cid},port={port}{rights}", path.display())
            }
            Self::Hybrid { path, port, rights } => {
                write!(f, "hybrid:{},port={port}{rights}", path.display())
            }
            Self::Private => f.write_str("unix:-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: Option<&str>, port: u16) -> Address {
        Address::Tcp { host: host.map(str::to_owned), port, family: Family::Any }
    }

    #[test]
    fn addresses_are_read_and_printed() {
        let vsock = |cid: Option<u32>, port| Address::Vsock { cid: cid.map(Cid::new), port };
        let vhost_user = |path: &str, cid, port| {
            let (path, rights) = (path.into(), Rights::default());
            let cid = GuestCid::new(cid).unwrap();
            Address::VhostUser { path, cid, port, rights }
        };
        let rights = Rights { mode: Some(0o660), owner: Some("qemu".into()), group: None };
        for (text, address, printed) in [
            ("vsock:10809", vsock(None, 10809), "vsock:10809"),
            ("vsock::10809", vsock(None, 10809), "vsock:10809"),
            ("vsock:2:3000000000", vsock(Some(2), 3_000_000_000), "vsock:2:3000000000"),
            ("vsock:4294967295:7", vsock(None, 7), "vsock:7"),
            ("tcp:10809", tcp(None, 10809), "tcp:10809"),
            ("tcp::10809", tcp(None, 10809), "tcp:10809"),
            ("tcp:127.0.0.1:0", tcp(Some("127.0.0.1"), 0), "tcp:127.0.0.1:0"),
            ("tcp:[::1]:65535", tcp(Some("::1"), 65535), "tcp:[::1]:65535"),
            ("tcp:[fe80::1%eth0]:1", tcp(Some("fe80::1%eth0"), 1), "tcp:[fe80::1%eth0]:1"),
            ("tcp:db.example:1", tcp(Some("db.example"), 1), "tcp:db.example:1"),
            ("unix:/run/a:b", Address::Unix("/run/a:b".into()), "unix:/run/a:b"),
            ("unix:-", Address::Private, "unix:-"),
            (
                "vhost-user:/run/vm",
                vhost_user("/run/vm", 3, 10809),
                "vhost-user:/run/vm,cid=3,port=10809",
            ),
            (
                "vhost-user:/vm,port=7,cid=4294967294",
                vhost_user("/vm", u32::MAX - 1, 7),
                "vhost-user:/vm,cid=4294967294,port=7",
            ),
            (
                "hybrid:/vm,port=52",
                Address::Hybrid { path: "/vm".into(), port: 52, rights: Rights::default() },
                "hybrid:/vm,port=52",
            ),
            (
                "hybrid:/vm,mode=660,owner=qemu,port=52",
                Address::Hybrid { path: "/vm".into(), port: 52, rights },
                "hybrid:/vm,port=52,mode=0660,owner=qemu",
            ),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string(), printed);
        }
    }

    #[test]
    fn text_that_is_not_an_address_is_refused_with_the_reason() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, error) in [
            ("", AddressError::Form),
            ("vsock", AddressError::Form),
            ("udp:1", AddressError::Form),
            ("vsock:", AddressError::VsockPort(String::new())),
            ("vsock:4294967296", AddressError::VsockPort("4294967296".into())),
            ("vsock:-1", AddressError::VsockPort("-1".into())),
            ("vsock:+1", AddressError::VsockPort("+1".into())),
            ("vsock:host:1", AddressError::Cid("host".into())),
            ("vsock:1:2:3", AddressError::VsockPort("2:3".into())),
            ("tcp:", AddressError::TcpPort(String::new())),
            ("tcp:localhost:65536", AddressError::TcpPort("65536".into())),
            ("tcp:localhost", AddressError::TcpPort("localhost".into())),
            ("tcp:::1:10809", AddressError::Brackets),
            ("tcp:[::1:10809", AddressError::Brackets),
            ("unix:", AddressError::NoPath),
            ("vhost-user:,cid=3", AddressError::NoPath),
            ("vhost-user:/vm,cid=4294967295", AddressError::GuestCid("4294967295".into())),
            ("hybrid:/vm,port=4294967295", AddressError::VsockPort("4294967295".into())),
            ("hybrid:/vm,port", AddressError::VsockPort(String::new())),
            (long.as_str(), AddressError::LongPath(108)),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }
}
