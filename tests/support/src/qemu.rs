//! QEMU as a peer: real machines without a guest, a QMP server that plays a script, and a vhost-user
//! back-end that satisfies QEMU.

mod machine;
pub mod scripted;
mod vhost_user;

pub use self::{machine::Machine, vhost_user::VhostUser};
