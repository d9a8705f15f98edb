//! The only unsafe code of guest-tools: system calls that no crate has in a safe form.

#![allow(unsafe_code, reason = "ioctls; each block says why it is sound")]

use std::{fs::File, os::fd::AsRawFd};

use nix::errno::Errno;

mod ioctl {
    // IOCTL_VM_SOCKETS_GET_LOCAL_CID of <linux/vm_sockets.h>, _IO(7, 0xb9).
    nix::ioctl_read_bad!(vm_sockets_get_local_cid, 0x7b9, u32);
}

/// The CID of this machine, asked of an open /dev/vsock. `VMADDR_CID_ANY` (2^32-1) where no
/// transport has given it one.
pub(crate) fn local_cid(device: &File) -> Result<u32, Errno> {
    let mut cid = 0;
    // SAFETY: the descriptor is open while `device` lives, and the kernel writes one u32 to `cid`;
    // on another kind of file it is refused with ENOTTY.
    unsafe { ioctl::vm_sockets_get_local_cid(device.as_raw_fd(), &raw mut cid) }?;
    Ok(cid)
}
