//! The kernel's ublk driver: commands to /dev/ublk-control, and the queue of one device, both through
//! io_uring. The meaning of commands and descriptors is in `attach::ublk`.
//!
//! This uses the crate io-uring and not libublk, whose rings are thread-locals that its own tasks drive.
//! The relay is one loop that waits for sockets too, and can wait for a ring's descriptor.

use std::{
    ffi::c_void,
    fs::File,
    io, mem,
    num::NonZeroUsize,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::FileExt,
    },
    ptr::NonNull,
};

use io_uring::{
    IoUring, cqueue,
    opcode::{UringCmd16, UringCmd80},
    squeue::{self, PushError},
    types::Fd,
};
use nix::{
    errno::Errno,
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{SysconfVar, sysconf},
};

/// The size of a request's descriptor (`struct ublksrv_io_desc`), in bytes.
pub(crate) const DESCRIPTOR: usize = 24;

/// A connection to the driver.
pub(crate) struct Control {
    file: File,
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
}

impl Control {
    pub(crate) fn open() -> io::Result<Self> {
        let file = File::options().read(true).write(true).open("/dev/ublk-control")?;
        Ok(Self { file, ring: IoUring::builder().build(1)? })
    }

    /// Executes one command and waits for its end. `command` is a `struct ublksrv_ctrl_cmd`, whose `len`
    /// and `addr` are filled in here: they describe `payload`, which the kernel reads or writes.
    pub(crate) fn command(
        &mut self,
        operation: u32,
        mut command: [u8; 32],
        payload: &mut [u8],
    ) -> io::Result<()> {
        // A copy, which is leaked if the wait fails.
        let mut own = payload.to_vec().into_boxed_slice();
        if !own.is_empty() {
            let len = u16::try_from(own.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            command[6..8].copy_from_slice(&len.to_ne_bytes());
            let address = own.as_mut_ptr().expose_provenance() as u64;
            command[8..16].copy_from_slice(&address.to_ne_bytes());
        }
        let mut words = [0; 80];
        words[..32].copy_from_slice(&command);
        let entry = UringCmd80::new(Fd(self.file.as_raw_fd()), operation).cmd(words).build();
        // SAFETY: the file is open while `self` lives. The kernel uses `own` until the completion, which is
        // awaited below; if the wait fails, `own` is never freed.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_: PushError| io::Error::other("the command queue is full"))?;
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    mem::forget(own);
                    return Err(error);
                }
                Ok(_) => {}
            }
            if let Some(done) = self.ring.completion().next() {
                payload.copy_from_slice(&own);
                let result = done.result();
                let failed = result < 0;
                return if failed { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
            }
        }
    }
}

/// This process's end of a device with one queue: /dev/ublkcN.
pub(crate) struct Queue {
    device: File,
    ring: IoUring,
    descriptors: NonNull<c_void>,
    len: NonZeroUsize,
    depth: u16,
}

// SAFETY: the mapping belongs to this value, and is only read, by the owner of the value.
unsafe impl Send for Queue {}

impl Queue {
    /// Opens the queue. `path` is /dev/ublkcN, and `depth` is the depth that the device was made with.
    pub(crate) fn open(path: &str, depth: u16) -> io::Result<Self> {
        let device = File::options().read(true).write(true).open(path)?;
        let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|page| usize::try_from(page).ok());
        let len = (usize::from(depth) * DESCRIPTOR).next_multiple_of(page.unwrap_or(4096));
        let len = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        // The ring belongs to the thread that enables it. Completions are processed when that thread is in
        // the kernel anyway. (IORING_SETUP_DEFER_TASKRUN would delay them until they are asked for. But in
        // Linux 6.12 it does not wake a poll(2) of the ring in time, which reduces the rate to a tenth.)
        let ring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .build(u32::from(depth))?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let descriptors =
            unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &device, 0) }?;
        Ok(Self { device, ring, descriptors, len, depth })
    }

    pub(crate) const fn depth(&self) -> u16 {
        self.depth
    }

    /// Makes the ring belong to this thread.
    pub(crate) fn enable(&self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()
    }

    /// Queues a command. `command` is a `struct ublksrv_io_cmd` without an address.
    pub(crate) fn push(&mut self, operation: u32, tag: u16, command: [u8; 16]) -> io::Result<()> {
        let entry = UringCmd16::new(Fd(self.device.as_raw_fd()), operation)
            .cmd(command)
            .build()
            .user_data(u64::from(tag));
        // SAFETY: the file is open while `self` lives, and with UBLK_F_USER_COPY a command refers to no
        // memory of this process.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_: PushError| io::Error::other("more commands than requests"))
    }

    /// Submits queued commands and collects completions.
    pub(crate) fn turn(&self) -> io::Result<()> {
        match self.ring.submit() {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes a completed command: its tag and result.
    pub(crate) fn pop(&mut self) -> Option<(u16, i32)> {
        let done = self.ring.completion().next()?;
        Some((u16::try_from(done.user_data()).ok()?, done.result()))
    }

    /// The descriptor of the request that has arrived under a tag.
    pub(crate) fn descriptor(&self, tag: u16) -> Option<[u32; DESCRIPTOR / 4]> {
        if tag >= self.depth {
            return None;
        }
        let at = self.descriptors.cast::<[u32; DESCRIPTOR / 4]>();
        // SAFETY: the mapping has `depth` descriptors, and each is aligned for the type. The kernel wrote
        // this one before it completed the command, and writes it again only after the next command is
        // submitted.
        Some(unsafe { at.add(usize::from(tag)).read_volatile() })
    }

    /// Reads the data of a write request.
    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.device.read_exact_at(bytes, at)
    }

    /// Writes the data of a read request.
    pub(crate) fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.device.write_all_at(bytes, at)
    }
}

/// The descriptor is readable when there are completions to collect.
impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring's descriptor is open while `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `open` made, and nothing refers to it any more. The call fails
        // only for an address that is not a mapping.
        let done: Result<(), Errno> = unsafe { munmap(self.descriptors, self.len.get()) };
        done.ok();
    }
}
