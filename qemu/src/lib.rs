//! What QEMU needs to give a guest a vsock device, and what it says about the guest's life.
//!
//! `qmp` talks to a running QEMU. Nothing that QEMU sends can panic, hang or grow what is here.

pub mod args;
pub mod cid;
pub mod life;
pub mod qmp;
pub mod text;
pub mod vhost;
pub mod vsock;
