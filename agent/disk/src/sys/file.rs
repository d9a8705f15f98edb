//! System calls on files that std and nix lack: reads into uninitialised memory, reads that do not block, writes that
//! are durable when they return, and properties of block devices.
//!
//! `file` calls them. Each function is one system call; none retries.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::fd::AsRawFd,
};

/// Whether a read may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It reads from the page cache, or fails with EAGAIN (RWF_NOWAIT).
    Never,
    Allowed,
}

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// The kernel has the bytes.
    Taken,
    /// The medium has them (RWF_DSYNC).
    Durable,
}

fn offset(at: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

fn count(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// Reads at most `len` bytes from `at` and appends them to `buffer`, which must already have room for them. Returns the
/// number of bytes; 0 is the end of the file.
pub(crate) fn read(
    file: &File,
    buffer: &mut Vec<u8>,
    len: usize,
    at: u64,
    wait: Wait,
) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    assert!(len <= spare.len(), "a read needs its room beforehand");
    let slice = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: len };
    let flags = if wait == Wait::Never { libc::RWF_NOWAIT } else { 0 };
    // SAFETY: the one slice is `len` bytes of memory that the buffer owns and nothing else refers to
    // while it is borrowed here; the kernel writes at most that much.
    let n = unsafe { libc::preadv2(file.as_raw_fd(), &raw const slice, 1, offset(at)?, flags) };
    let n = count(n)?;
    // SAFETY: n <= len <= the spare capacity, and the kernel has written the first n bytes of it.
    unsafe { buffer.set_len(buffer.len() + n) };
    Ok(n)
}

/// Writes the slices, at most IOV_MAX of them, at offset `at`. Returns the number of bytes.
pub(crate) fn write(
    file: &File,
    slices: &[IoSlice<'_>],
    at: u64,
    until: Until,
) -> io::Result<usize> {
    let n = slices.len().min(usize::try_from(libc::UIO_MAXIOV).unwrap_or(1));
    let n = libc::c_int::try_from(n).unwrap_or(1);
    let flags = if until == Until::Durable { libc::RWF_DSYNC } else { 0 };
    // SAFETY: IoSlice has the layout of iovec (std promises it); the first n slices are borrowed for
    // the length of the call, and the kernel only reads from them.
    let n =
        unsafe { libc::pwritev2(file.as_raw_fd(), slices.as_ptr().cast(), n, offset(at)?, flags) };
    count(n)
}

/// Fails with the error of the file's writeback that this descriptor has not reported yet (sync_file_range(2)). It
/// neither blocks nor writes, since it names a page far beyond the end of any file.
pub(crate) fn written_back(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE;
    // SAFETY: the call takes numbers only.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), 1 << 62, 1, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

mod ioctl {
    // linux/fs.h: group 0x12, encoded without a direction or size ("bad" in nix's words).
    nix::ioctl_read_bad!(read_only, nix::request_code_none!(0x12, 94), libc::c_int);
    nix::ioctl_read_bad!(sector, nix::request_code_none!(0x12, 104), libc::c_int);
    nix::ioctl_write_ptr_bad!(discard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_read_bad!(physical_sector, nix::request_code_none!(0x12, 123), libc::c_int);
}

/// Whether a block device refuses writes (BLKROGET). It may do so although it was opened for writing.
pub(crate) fn read_only(device: &File) -> io::Result<bool> {
    let mut flag = 0;
    // SAFETY: the call writes one int, which `flag` is.
    unsafe { ioctl::read_only(device.as_raw_fd(), &raw mut flag) }?;
    Ok(flag != 0)
}

/// Smallest unit of I/O of a block device in bytes (BLKSSZGET).
pub(crate) fn sector(device: &File) -> io::Result<u32> {
    let mut bytes = 0;
    // SAFETY: the call writes one int, which `bytes` is.
    unsafe { ioctl::sector(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(io::Error::other)
}

/// Unit that a block device writes without reading first, in bytes (BLKPBSZGET).
pub(crate) fn physical_sector(device: &File) -> io::Result<u32> {
    let mut bytes = 0;
    // SAFETY: the call writes one unsigned int, which has the size and alignment of `bytes`.
    unsafe { ioctl::physical_sector(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(io::Error::other)
}

/// Tells a block device that a range of whole sectors is not needed (BLKDISCARD).
pub(crate) fn discard(device: &File, at: u64, len: u64) -> io::Result<()> {
    let range = [at, len];
    // SAFETY: the call reads two 64-bit numbers, which `range` is.
    unsafe { ioctl::discard(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn reads_append_to_the_buffer_and_stop_at_the_end() {
        let file = file(b"0123456789");
        let mut buffer = Vec::with_capacity(64);
        buffer.push(b'>');
        assert_eq!(read(&file, &mut buffer, 4, 3, Wait::Allowed).unwrap(), 4);
        assert_eq!(read(&file, &mut buffer, 4, 8, Wait::Allowed).unwrap(), 2);
        assert_eq!(read(&file, &mut buffer, 4, 10, Wait::Allowed).unwrap(), 0);
        assert_eq!(buffer, b">345689");
    }

    #[test]
    #[should_panic(expected = "room beforehand")]
    fn a_read_without_room_panics() {
        let mut buffer = Vec::new();
        drop(read(&file(b"0"), &mut buffer, 1 << 20, 0, Wait::Allowed));
    }

    #[test]
    fn slices_are_written_in_order_and_durably_if_asked() {
        let mut file = file(b"");
        let slices = [b"ab".as_slice(), b"", b"cde"].map(IoSlice::new);
        for until in [Until::Taken, Until::Durable] {
            match write(&file, &slices, 1, until) {
                Ok(n) => assert_eq!(n, 5),
                // A filesystem may not support the flag.
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP)),
            }
        }
        let mut all = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"\0abcde");
    }

    #[test]
    fn a_file_that_is_no_block_device_is_an_error() {
        for error in [
            read_only(&file(b"")).unwrap_err(),
            sector(&file(b"")).unwrap_err(),
            physical_sector(&file(b"")).unwrap_err(),
            discard(&file(b""), 0, 512).unwrap_err(),
        ] {
            assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
        }
    }
}
