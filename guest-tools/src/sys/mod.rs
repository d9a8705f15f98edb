//! The only unsafe code of guest-tools: system calls for which no crate has a safe interface.

#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

pub(crate) mod ublk;

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::atomic::{AtomicU8, Ordering},
};

use nix::errno::Errno;

mod ioctl {
    // <linux/fs.h>: group 0x12, encoded without a direction or size ("bad" in nix's words).
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), i32);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
    // LOOP_GET_STATUS64 of <linux/loop.h>.
    nix::ioctl_read_bad!(loop_get_status64, 0x4c05, [u64; 29]);
}

/// The sector of a block device: the smallest unit of its I/O, in bytes (BLKSSZGET).
pub(crate) fn sector_size(device: &File) -> Result<u32, Errno> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open while `device` lives. The call writes one int, which `bytes` is. It is refused
    // for other kinds of files.
    unsafe { ioctl::blksszget(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(|_| Errno::EOVERFLOW)
}

/// Makes a range of a block device zeroes (BLKZEROOUT). `at` and `len` are in bytes, and multiples of a sector.
pub(crate) fn zero_out(device: &File, at: u64, len: u64) -> Result<(), Errno> {
    let range = [at, len];
    // SAFETY: the descriptor is open while `device` lives, and the call reads two 64-bit numbers, which `range` is.
    unsafe { ioctl::blkzeroout(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

/// The file of a loop device: the number of its filesystem, and its inode (LOOP_GET_STATUS64).
pub(crate) fn loop_file(device: &File) -> Result<(u64, u64), Errno> {
    let mut info = [0; 29];
    // SAFETY: the descriptor is open while `device` lives. The call writes a struct loop_info64. It has 232 bytes, as
    // `info` has, and needs no stricter alignment than u64. The call is refused for other kinds of files.
    unsafe { ioctl::loop_get_status64(device.as_raw_fd(), &raw mut info) }?;
    // The first two members are lo_device and lo_inode.
    Ok((info[0], info[1]))
}

/// Tells the kernel that block I/O depends on this thread and the threads that it starts (prctl(2),
/// `PR_SET_IO_FLUSHER`). Needs `CAP_SYS_RESOURCE`.
pub(crate) fn become_io_flusher() -> Result<(), Errno> {
    const PR_SET_IO_FLUSHER: nix::libc::c_int = 57;
    let (on, unused): (nix::libc::c_ulong, nix::libc::c_ulong) = (1, 0);
    // SAFETY: the call takes only numbers, and changes only how the kernel finds memory for this thread.
    let done = unsafe { nix::libc::prctl(PR_SET_IO_FLUSHER, on, unused, unused, unused) };
    Errno::result(done).map(drop)
}

/// The standard streams that were closed when this program was started, one bit each. Rust's runtime opens /dev/null
/// in their place before `main`, and output is then lost without an error.
static CLOSED: AtomicU8 = AtomicU8::new(0);

extern "C" fn look_at_standard_streams() {
    for number in 0..3 {
        // SAFETY: the call takes only numbers, and asks for the flags of a descriptor, which may be closed.
        if unsafe { nix::libc::fcntl(number, nix::libc::F_GETFD) } == -1 {
            CLOSED.fetch_or(1 << number, Ordering::Relaxed);
        }
    }
}

// SAFETY: the C runtime calls the functions in this section once, on the only thread, before Rust's runtime begins.
// The function uses nothing of that runtime, and does not unwind.
#[unsafe(link_section = ".init_array")]
#[used]
static AT_START: extern "C" fn() = look_at_standard_streams;

/// Fails if the standard stream `stream` was closed when this program was started.
pub(crate) fn was_open(stream: BorrowedFd<'_>) -> io::Result<()> {
    let closed = CLOSED.load(Ordering::Relaxed);
    match u32::try_from(stream.as_raw_fd()) {
        Ok(number @ 0..3) if closed & (1 << number) != 0 => Err(Errno::EBADF.into()),
        _ => Ok(()),
    }
}

/// Duplicates the descriptor that the caller of this program has open under a number.
pub(crate) fn duplicate(number: RawFd) -> io::Result<File> {
    if number < 0 {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: the number is not -1, and it is borrowed for one system call, which fails if no descriptor with that
    // number is open.
    let given = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(given.try_clone_to_owned()?.into())
}
