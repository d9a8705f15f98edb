//! Unix sockets, also those with an abstract name.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, connect as nix_connect, setsockopt,
        socket as nix_socket, sockopt,
    },
    time::TimeVal,
};

use super::time_value;
use crate::timeout;

/// A path; or a name, after a NUL.
pub(super) fn connect(socket: &[u8]) -> io::Result<OwnedFd> {
    let address = match socket.strip_prefix(b"\0") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(OsStr::from_bytes(socket))?,
    };
    let fd = nix_socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // A server that does not accept keeps its clients waiting once its queue is full. What is said on
    // the socket later has the caller's limits.
    if let Some(limit) = timeout::limit() {
        setsockopt(&fd, sockopt::SendTimeout, &time_value(limit))?;
    }
    nix_connect(fd.as_raw_fd(), &address).map_err(|errno| timeout::told(errno.into()))?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(0, 0))?;
    Ok(fd)
}

pub(super) fn hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket: is the server running?",
        io::ErrorKind::ConnectionRefused => {
            "the socket is there, but nobody listens: its server has ended"
        }
        io::ErrorKind::PermissionDenied => "this user may not use the socket",
        io::ErrorKind::TimedOut => {
            "its server does not accept connections: it hangs, or has too many"
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => {
            "the path does not fit a socket address of 107 bytes"
        }
        _ => "check the path",
    }
    .to_owned()
}
