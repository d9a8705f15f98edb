//! System calls of disks without a safe wrapper. These are the only modules of this crate with `unsafe`; each block says
//! why it is sound.

#[allow(unsafe_code, reason = "anonymous memory maps, and giving parts of them back")]
pub(crate) mod blocks;
#[allow(unsafe_code, reason = "an allocation of zeroes that may fail")]
pub(crate) mod buffer;
#[allow(unsafe_code, reason = "system calls without a safe interface in std or nix")]
pub(crate) mod file;
#[allow(unsafe_code, reason = "buffers that belong to the kernel for a while")]
pub(crate) mod ring;
