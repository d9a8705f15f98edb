//! The two ioctls about CIDs, which no crate offers as safe functions: the only unsafe code of this crate.
//!
//! `cid` calls them. The functions open nothing and keep nothing.
#![allow(unsafe_code, reason = "ioctls that nix has macros for, but no functions")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use vsock_cid::{Cid, GuestCid};

mod raw {
    use nix::libc;

    /// VHOST_VIRTIO, linux/vhost.h.
    const VHOST: u8 = 0xaf;
    /// _IO(7, 0xb9) of linux/vm_sockets.h. The kernel writes through its argument, although _IO says otherwise.
    const GET_LOCAL_CID: nix::sys::ioctl::ioctl_num_type = nix::request_code_none!(7, 0xb9);

    nix::ioctl_write_ptr!(
        /// VHOST_VSOCK_SET_GUEST_CID.
        set_guest_cid,
        VHOST,
        0x60,
        u64
    );
    nix::ioctl_read_bad!(
        /// IOCTL_VM_SOCKETS_GET_LOCAL_CID.
        get_local_cid,
        GET_LOCAL_CID,
        libc::c_uint
    );
}

/// Assigns the CID to an open /dev/vhost-vsock. No other device can have the CID while the descriptor is open.
///
/// # Errors
/// EADDRINUSE, if another device has the CID; ENOTTY, if the descriptor is none of /dev/vhost-vsock.
pub fn set_guest_cid(device: impl AsFd, cid: GuestCid) -> io::Result<()> {
    let cid = u64::from(cid.get());
    // SAFETY: the descriptor is open for the call, and the kernel reads 8 bytes at the pointer,
    // which `cid` has. On a descriptor of another kind the call fails.
    unsafe { raw::set_guest_cid(device.as_fd().as_raw_fd(), &raw const cid) }?;
    Ok(())
}

/// The CID of this machine, from an open /dev/vsock.
///
/// # Errors
/// ENOTTY, if the descriptor is none of /dev/vsock.
pub fn local_cid(device: impl AsFd) -> io::Result<Cid> {
    let mut cid = 0;
    // SAFETY: the descriptor is open for the call, and the kernel writes the 4 bytes of an
    // unsigned int at the pointer, which `cid` has.
    unsafe { raw::get_local_cid(device.as_fd().as_raw_fd(), &raw mut cid) }?;
    Ok(Cid::new(cid))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::libc;

    use super::*;

    #[test]
    fn a_descriptor_of_another_device_is_an_error() {
        let null = File::open("/dev/null").unwrap();
        let cid = GuestCid::MIN;
        assert_eq!(set_guest_cid(&null, cid).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(local_cid(&null).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
