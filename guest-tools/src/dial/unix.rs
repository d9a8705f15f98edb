//! Unix sockets, also those with an abstract name.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixStream},
        },
    },
};

/// A path; or a name, after a NUL.
pub(super) fn connect(socket: &[u8]) -> io::Result<OwnedFd> {
    let address = match socket.strip_prefix(b"\0") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(socket))?,
    };
    Ok(UnixStream::connect_addr(&address)?.into())
}

pub(super) fn mend(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket: is the server running?",
        io::ErrorKind::ConnectionRefused => {
            "the socket is there, but nobody listens: its server has ended"
        }
        io::ErrorKind::PermissionDenied => "this user may not use the socket",
        io::ErrorKind::InvalidInput => "the path does not fit a socket address of 107 bytes",
        _ => "check the path",
    }
    .to_owned()
}
