//! Unix sockets, including those with an abstract name.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt};

use nix::sys::socket::{AddressFamily, UnixAddr};

use super::attempt;
use crate::{socket::Socket, timeout::Timeout, wait::Wait};

/// Connects to a path, or after a NUL to an abstract name. Once the queue of a server that does not
/// accept is full, this waits until the timeout.
pub(super) async fn connect(
    socket: &[u8],
    timeout: Timeout,
    wait: &impl Wait,
) -> io::Result<Socket> {
    let address = match socket.strip_prefix(b"\0") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(OsStr::from_bytes(socket))?,
    };
    attempt::connect(AddressFamily::Unix, &address, timeout, wait).await
}

pub(super) fn hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket: is the server running?",
        io::ErrorKind::ConnectionRefused => {
            "the socket file is there, but no process listens on it: its server has ended"
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
