//! The host's end of a guest's virtio-vsock device, in this process: no kernel module, no CID that
//! another guest could have. One socket is one VM.
//!
//! ```text
//!  guest's driver --TX queue--> device: a packet's connection, its bytes stay in the guest's memory
//!                                 |        until the session takes them (`connection`)
//!  guest's driver <--RX queue-- device: a session's bytes, from the disk's pages into the guest's
//!                                          buffers; answers and resets before them
//! ```
//! `backend` accepts a VMM (QEMU), one at a time on a path; `vm` serves it, `vhost_user` is what it says. The agent's `listen`
//! accepts from it, its `session` sends and receives as on a socket. Nothing here knows NBD.

mod backend;
mod connection;
mod connections;
mod device;
mod flow;
mod foreign;
mod header;
mod inbox;
mod inner;
mod line;
mod log;
mod memory;
mod packets;
mod queue;
mod ring;
mod sys;
#[cfg(any(test, fuzzing, feature = "testing"))]
pub mod testing;
mod vhost_user;
mod vm;

pub use self::{
    backend::{Host, Place},
    connection::Connection,
};

/// The least CID that a guest can have, and the one that it has if nothing else is said: it means
/// nothing outside of this VM.
pub const DEFAULT_CID: u32 = 3;
/// The host's CID, which guests connect to (VMADDR_CID_HOST).
const HOST_CID: u64 = 2;
