//! A listener as its own machine sees it: how a local client names it, and what it leaves in the
//! filesystem.
//!
//! `plan` asks for the first of `--run`'s command, `process` about the second when the user changes.

use std::{io, os::unix::ffi::OsStrExt, path::Path};

use super::{Listener, Socket, uri, vm};

/// `VMADDR_CID_LOCAL`: how a process names its own machine.
const LOCAL: u32 = 1;

impl Listener {
    /// As `uri`, for a client on this machine, which is told the file that it needs for TLS: a
    /// parameter of libnbd's URIs and its value.
    pub fn local_uri(&self, export: &str, file: Option<(&str, &Path)>) -> Option<String> {
        let mut uri = match &self.socket {
            Socket::Vsock(listener) => {
                uri::vsock(Some(listener.cid.unwrap_or(LOCAL)), listener.port, export)
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

    /// Of TCP or vsock.
    pub fn port(&self) -> Option<u32> {
        match &self.socket {
            Socket::Vsock(listener) => Some(listener.port),
            Socket::Tcp(listener) => Some(listener.address.port().into()),
            Socket::Vm(listener) => Some(listener.port()),
            Socket::Unix(_) => None,
        }
    }

    /// Absolute.
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.socket {
            Socket::Unix(listener) => listener.path(),
            _ => None,
        }
    }

    /// Gives what the listener has made for itself alone to another user, who is to remove it.
    pub fn hand_over(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        match &self.socket {
            Socket::Unix(listener) => listener.hand_over(uid, gid),
            _ => Ok(()),
        }
    }

    /// What will stay in the filesystem at the end, because this process may not remove it.
    pub fn left_behind(&self) -> Option<&Path> {
        match &self.socket {
            Socket::Unix(listener) if !listener.is_removable() => listener.path(),
            Socket::Vm(listener) if !listener.socket().is_removable() => listener.socket().path(),
            _ => None,
        }
    }

    /// Has the kernel ask after TCP peers that are silent for long (`SO_KEEPALIVE`), and end the
    /// connections of those that are gone.
    pub fn keep_alive(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(listener) => listener.keep_alive(),
            _ => Ok(()),
        }
    }
}
