//! What QEMU needs to give a guest a vsock device.

pub mod args;
