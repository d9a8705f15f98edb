//! Options of AF_VSOCK that tokio-vsock lacks: the window and the backlog of a listener.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use nix::sys::socket::{Backlog, listen};

/// `SO_VM_SOCKETS_BUFFER_SIZE` and `SO_VM_SOCKETS_BUFFER_MAX_SIZE`, <linux/vm_sockets.h>. The level
/// is the number of the address family.
const BUFFER_SIZE: libc::c_int = 0;
const BUFFER_MAX_SIZE: libc::c_int = 2;

/// Lets the peer have up to `bytes` in flight. Sockets accepted from this one inherit it.
pub(crate) fn set_window(socket: &impl AsFd, bytes: u64) -> io::Result<()> {
    // In this order: the size is cut to the maximum, which is 256 KiB unless raised.
    set(socket, BUFFER_MAX_SIZE, bytes)?;
    set(socket, BUFFER_SIZE, bytes)
}

/// Sets the number of connections that may wait to be accepted.
pub(crate) fn set_backlog(socket: &impl AsFd, connections: u32) -> io::Result<()> {
    let backlog = i32::try_from(connections).ok().and_then(|n| Backlog::new(n).ok());
    listen(socket, backlog.unwrap_or(Backlog::MAXCONN))?;
    Ok(())
}

fn set(socket: &impl AsFd, option: libc::c_int, value: u64) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).expect("8 bytes");
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel reads `size`
    // bytes from `value`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::AF_VSOCK,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
