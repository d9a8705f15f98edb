//! A connection as the kernel has it, before the runtime knows it: `listen` yields these, `session`
//! takes them.

use std::os::fd::OwnedFd;

/// Connected descriptors, blocking or not.
#[derive(Debug)]
pub struct Stream {
    /// A socket, or what comes from the client.
    pub from: OwnedFd,
    /// What goes to the client, where it is another one: a pipe, mostly.
    pub to: Option<OwnedFd>,
}

impl From<OwnedFd> for Stream {
    fn from(socket: OwnedFd) -> Self {
        Self { from: socket, to: None }
    }
}
