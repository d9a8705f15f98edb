//! The system calls on AF_VSOCK that the probes make.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, bind, socket};
use vsock_cid::Cid;

nix::ioctl_read_bad!(
    /// `IOCTL_VM_SOCKETS_GET_LOCAL_CID`, <linux/vm_sockets.h>.
    get_local_cid,
    nix::request_code_none!(7, 0xb9),
    libc::c_uint
);

/// This machine's own CID, from an open `/dev/vsock`: a guest's where it is a guest, else the host's.
pub(crate) fn local_cid(device: &impl AsFd) -> io::Result<Cid> {
    let mut cid = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes one
    // `unsigned int` to `cid`, which lives until the call returns.
    unsafe { get_local_cid(device.as_fd().as_raw_fd(), &raw mut cid) }?;
    Ok(Cid::new(cid))
}

/// Makes a vsock socket, and closes it.
pub(crate) fn try_socket() -> io::Result<()> {
    socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(())
}

/// Binds a socket to the port on every CID of this machine, and closes it. It does not listen. The outer
/// error is that of the socket, the inner one that of the port.
pub(crate) fn try_port(port: u32) -> io::Result<io::Result<()>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    let address = VsockAddr::new(Cid::ANY.get(), port);
    Ok(bind(socket.as_raw_fd(), &address).map_err(io::Error::from))
}
