//! An accepted connection before the runtime knows it: `listen` yields it, `transport` takes it.

use std::os::fd::OwnedFd;

use crate::sys;

/// A connected stream.
#[derive(Debug)]
pub enum Accepted {
    /// Of the kernel: connected descriptors, blocking or not.
    Kernel {
        /// A socket, or what comes from the client.
        from: OwnedFd,
        /// What goes to the client, where it is another one: a pipe, mostly.
        to: Option<OwnedFd>,
    },
    /// Of a guest whose vsock device ends in this agent.
    Guest(vsock_device::Connection),
}

impl Accepted {
    /// What a security module calls the other end, where it calls it something.
    pub fn label(&self) -> Option<String> {
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
