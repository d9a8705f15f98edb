//! An accepted connection that is not registered with a runtime yet. `listen` yields it, and
//! `transport` takes it.

use std::os::fd::OwnedFd;

use crate::sys;

/// A connected stream.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A connection of the kernel: connected descriptors, blocking or not.
    Kernel {
        /// The socket, or the descriptor that is read from.
        from: OwnedFd,
        /// The descriptor that is written to, if it is another one. Mostly a pipe.
        to: Option<OwnedFd>,
    },
    /// A connection of a guest whose vsock device the agent implements.
    Guest(vsock_device::Connection),
}

impl Accepted {
    /// The peer's label from the kernel's security module, if it has one.
    pub(crate) fn label(&self) -> Option<String> {
        match self {
            Self::Kernel { from, .. } => sys::label::of_peer(from),
            Self::Guest(_) => None,
        }
    }
}

impl From<OwnedFd> for Accepted {
    fn from(socket: OwnedFd) -> Self {
        Self::Kernel { from: socket, to: None }
    }
}
