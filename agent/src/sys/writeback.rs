//! The state of a file's writeback, without starting any.

use std::{fs::File, io, os::fd::AsRawFd};

/// Fails if writeback of the file has failed since the previous call on this descriptor (sync_file_range(2)). Waits
/// only for pages that are being written back.
pub(crate) fn check(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE;
    // SAFETY: it takes no pointer, and the descriptor is open as long as `file` is borrowed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
