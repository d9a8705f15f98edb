//! The kernel's asynchronous reads (io_setup(2)), used only to signal eventfds: when such a read completes, the kernel
//! adds 1 to an eventfd. That never blocks, however full the eventfd is and whatever its flags are.
//!
//! `eventfd` uses this for eventfds of other processes. The read is of an empty file and completes at once.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
    sync::OnceLock,
};

use nix::{
    errno::Errno,
    sys::memfd::{MFdFlags, memfd_create},
};

/// Most reads in flight. Each completes before its call returns.
const MOST: libc::c_uint = 64;
/// Completions that are discarded per call.
const ANSWERS: usize = 128;
/// Numbers of linux/aio_abi.h.
const NONE: libc::c_long = 0;
const ONE: libc::c_long = 1;
const IOCB_CMD_PREAD: u16 = 0;
const IOCB_FLAG_RESFD: u32 = 1;

/// The context of all threads; the kernel synchronizes them.
pub(crate) struct Aio {
    context: libc::c_ulong,
    empty: OwnedFd,
}

/// `struct iocb` of linux/aio_abi.h.
#[derive(Default)]
#[repr(C)]
struct Iocb {
    data: u64,
    /// A field of the kernel, and flags of the read; in the other order on big-endian machines.
    key_and_flags: [u32; 2],
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: u32,
}

const _: () = assert!(size_of::<Iocb>() == 64);

impl Aio {
    /// `None` if the kernel does not have such reads or denies them (a sandbox, `fs.aio-max-nr`).
    pub(crate) fn of_process() -> Option<&'static Self> {
        static PROCESS: OnceLock<Option<Aio>> = OnceLock::new();
        let new = || {
            let tried = Self::new();
            if let Err(error) = &tried {
                tracing::warn!(
                    "io_setup: {error}: a VMM that means harm can make the agent wait for its eventfds; \
                     raise fs.aio-max-nr, or allow io_setup, io_submit and io_getevents"
                );
            }
            tried.ok()
        };
        PROCESS.get_or_init(new).as_ref()
    }

    fn new() -> io::Result<Self> {
        let empty = memfd_create(c"empty", MFdFlags::MFD_CLOEXEC)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the call writes only the number that the pointer refers to.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, MOST, &raw mut context) };
        Errno::result(done)?;
        Ok(Self { context, empty })
    }

    /// Adds 1 to an eventfd.
    ///
    /// # Errors
    /// EINVAL, if the descriptor is not an eventfd.
    pub(crate) fn signal(&self, event: BorrowedFd<'_>) -> io::Result<()> {
        let number = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
        let mut read = Iocb {
            opcode: IOCB_CMD_PREAD,
            file: number(self.empty.as_raw_fd())?,
            flags: IOCB_FLAG_RESFD,
            event: number(event.as_raw_fd())?,
            ..Iocb::default()
        };
        let mut reads = [&raw mut read];
        loop {
            // SAFETY: one read of no bytes. The kernel writes only the key, before the call returns.
            let done = unsafe {
                libc::syscall(libc::SYS_io_submit, self.context, ONE, reads.as_mut_ptr())
            };
            match Errno::result(done) {
                Ok(_) => return Ok(()),
                // The kernel has no room for the completion.
                Err(Errno::EAGAIN) => self.forget_answers()?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn forget_answers(&self) -> io::Result<()> {
        /// `struct io_event`.
        type Answer = [u64; 4];
        let mut answers: [Answer; ANSWERS] = [[0; 4]; ANSWERS];
        let (to, none) = (answers.as_mut_ptr(), ptr::null_mut::<libc::timespec>());
        // SAFETY: the call writes at most as many events as there is room for. It waits for 0 events, so not at all.
        let done =
            unsafe { libc::syscall(libc::SYS_io_getevents, self.context, NONE, ANSWERS, to, none) };
        Errno::result(done)?;
        Ok(())
    }
}
