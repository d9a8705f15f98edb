//! The host's end of a guest's virtio-vsock device, in this process: no kernel module, no CID that
//! another guest could have. One socket is one VM.
//!
//! ```text
//!  guest's driver --TX queue--> device: a packet's connection, its bytes stay in the guest's memory
//!                                 |        until the session takes them (`connection`)
//!  guest's driver <--RX queue-- device: a session's bytes, from the disk's pages into the guest's
//!                                          buffers; answers and resets before them
//! ```
//! `host` speaks vhost-user with the VMM (QEMU), one VM at a time on a path. The agent's `listen`
//! accepts from it, its `session` sends and receives as on a socket. Nothing here knows NBD.

mod connection;
mod device;
#[cfg(any(test, fuzzing))]
mod driver;
mod flow;
mod header;
mod host;
#[cfg(any(test, fuzzing))]
pub mod hostile;
mod memory;
mod peers;
mod queue;
mod sys;
mod vring;

pub use self::{
    connection::Connection,
    host::{Host, Place},
};

/// The least CID that a guest can have, and the one that it has if nothing else is said: it means
/// nothing outside of this VM.
pub const DEFAULT_CID: u32 = 3;
/// The host's CID, which guests connect to (VMADDR_CID_HOST).
const HOST_CID: u64 = 2;
