//! The operations of the end-to-end tests: boot a machine, run a command in it, report what was checked.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`qemu`] | start a machine, read its console, end it |
//! | [`guest`] | the Debian VM host, and commands in it |
//! | [`nest`] | a guest inside that VM host |
//! | [`agent`], [`vhost_user`] | an agent here, and guests whose vsock device ends in it |
//! | [`lab`] | the images, and a directory for sockets and disks |
//! | [`attach`] | the guest's block devices while their agent is killed |
//! | [`need`] | the tools that a test needs, and how to get them |
//!
//! Nothing here connects to AF_VSOCK from this machine: programs that use vsock run in a guest.

pub mod agent;
pub mod attach;
pub mod failure;
pub mod guest;
pub mod lab;
pub mod need;
pub mod nest;
pub mod qemu;
pub mod vhost_user;

pub use failure::{Failure, Outcome};
