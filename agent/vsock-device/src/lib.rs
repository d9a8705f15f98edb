//! The host's end of a guest's virtio-vsock device, over vhost-user, in this process. It needs no kernel module, and
//! no other guest can have the guest's CID, since each VM has its own socket.
//!
//! ```text
//!  guest's driver --TX queue--> device: a packet's connection, its bytes stay in the guest's memory
//!                                 |        until the session takes them (`connection`)
//!  guest's driver <--RX queue-- device: a session's bytes, from the disk's pages into the guest's
//!                                          buffers; answers and resets before them
//! ```
//! `backend` accepts a VMM (QEMU), one at a time on a path; `vm` serves it; `vhost_user` parses its messages. The
//! agent's `listen` accepts connections from [`Host`], and its `session` sends and receives on [`Connection`] as on a
//! socket. The crate knows nothing of NBD.
//!
//! With a [`Keeper`] the device survives the end of this process, SIGKILL included: `setup` has the VMM's messages for
//! the next process, `record` what the rings do not say, and `keeper` takes both over. Connections end, and the guest is
//! told.
//!
//! The guest and the VMM are treated as hostile. What each VM can make this process hold is bounded, and a breach of
//! the rules ends the connections of that VM only.

mod backend;
mod broken;
mod connection;
mod connections;
mod device;
mod fault;
mod flow;
mod foreign;
mod header;
mod inbox;
mod inner;
mod keeper;
mod key;
mod line;
mod log;
mod memory;
mod packets;
mod place;
mod queue;
mod record;
mod ring;
mod setup;
mod sys;
#[cfg(any(test, fuzzing, feature = "testing"))]
pub mod testing;
mod vhost_user;
mod vm;

use vsock_cid::GuestCid;

pub use self::{
    backend::Host,
    connection::Connection,
    keeper::{Keeper, Left},
    place::Place,
};

/// The CID of a guest that is given none. A CID has no meaning outside of its VM.
pub const DEFAULT_CID: GuestCid = GuestCid::MIN;
