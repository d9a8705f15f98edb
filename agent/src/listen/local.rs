//! A listener as seen from the agent's own machine: the URI for a local client, and the files that the listener leaves
//! in the filesystem.
//!
//! `plan` asks for the URI for the command of `--run`. `process` asks about the files when the user changes.

use std::{io, os::unix::ffi::OsStrExt, path::Path};

use vsock_cid::Cid;

use super::{Listener, Socket, uri, vm};

impl Listener {
    /// As `uri`, for a client on this machine. `file` is the file that the client needs for TLS: a parameter of
    /// libnbd's URIs and its value.
    pub(crate) fn local_uri(&self, export: &str, file: Option<(&str, &Path)>) -> Option<String> {
        let mut uri = match &self.socket {
            Socket::Vsock(listener) => {
                uri::vsock(Some(listener.cid.unwrap_or(Cid::LOCAL)), listener.port, export)
            }
            Socket::Vm(vm::Listener::VhostUser { .. }) => return None,
            Socket::Vm(listener) => uri::unix(listener.socket().path()?, export),
            _ => self.uri(export)?,
        };
        if let Some((name, path)) = file {
            uri.push(if uri.contains('?') { '&' } else { '?' });
            uri.push_str(name);
            uri.push('=');
            uri.push_str(&uri::escape(path.as_os_str().as_bytes()));
        }
        Some(uri)
    }

    /// The port of a TCP or vsock listener.
    pub(crate) fn port(&self) -> Option<u32> {
        match &self.socket {
            Socket::Vsock(listener) => Some(listener.port),
            Socket::Tcp(listener) => Some(listener.address.port().into()),
            Socket::Vm(listener) => Some(listener.port()),
            Socket::Unix(_) => None,
        }
    }

    /// The absolute path of a Unix socket.
    pub(crate) fn unix_path(&self) -> Option<&Path> {
        match &self.socket {
            Socket::Unix(listener) => listener.path(),
            _ => None,
        }
    }

    /// Gives the files that the listener made for its own use to another user, so that this user can remove them.
    pub(crate) fn hand_over(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        match &self.socket {
            Socket::Unix(listener) => listener.hand_over(uid, gid),
            _ => Ok(()),
        }
    }

    /// The path that will stay in the filesystem at exit because this process may not remove it.
    pub(crate) fn left_behind(&self) -> Option<&Path> {
        match &self.socket {
            Socket::Unix(listener) if !listener.is_removable() => listener.path(),
            Socket::Vm(listener) if !listener.socket().is_removable() => listener.socket().path(),
            _ => None,
        }
    }

    /// Enables `SO_KEEPALIVE`: the kernel probes TCP peers that have been silent for a long time, and ends the
    /// connections of those that do not answer.
    pub(crate) fn keep_alive(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(listener) => listener.keep_alive(),
            _ => Ok(()),
        }
    }
}
