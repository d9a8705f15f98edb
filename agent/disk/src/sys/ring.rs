//! A ring of io_uring(7): reads and writes of files that the kernel goes on with while no thread waits.
//!
//! `ring` has one for each thread. What the kernel reads and writes belongs to the ring from `push` until the
//! kernel has told that it is done with it, whatever becomes of who asked.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::Arc,
};

use io_uring::{IoUring, opcode, types::Fd};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::Pages;

/// Requests that wait to be submitted: few, since each is submitted when it is pushed.
const REQUESTS: u32 = 256;
/// Completions that the kernel keeps in the ring. It keeps more elsewhere (IORING_FEAT_NODROP).
const COMPLETIONS: u32 = 1024;

/// What is read or written.
#[derive(Debug)]
pub(crate) enum Transfer {
    /// So many bytes, to be appended to a buffer that has the room; past the page cache if `direct`.
    Read { bytes: Vec<u8>, len: usize, direct: bool },
    /// All that the pages hold, past the page cache; `durable`: the medium has it when it is done (RWF_DSYNC).
    Write { pages: Pages, durable: bool },
}

/// What would wait fails with EAGAIN (RWF_NOWAIT), where else one of the kernel's threads would wait with it: these
/// are few, and shared by all tenants. A read through the page cache waits without a thread, and only without it.
const NOWAIT: libc::c_int = libc::RWF_NOWAIT;

/// Told how many bytes were moved.
pub(crate) type Then = Box<dyn FnOnce(io::Result<usize>, Transfer) + Send>;

/// A file that a request needs until it is done.
pub(crate) type Keep = Arc<dyn AsFd + Send + Sync>;

/// A request that the ring has.
struct Request {
    transfer: Transfer,
    /// Of a write: where its bytes lie.
    slices: Vec<libc::iovec>,
    then: Then,
    /// Submitted by its number: that must not be another file's until then.
    _file: Keep,
}

/// What is left to be done after a turn, though the kernel signals nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Another turn, after the other tasks of the thread: the kernel does a bounded amount of work in one call.
    Now,
    /// Another turn in a moment: the kernel could not take what there is.
    Later,
}

/// A request that is done.
pub(crate) struct Completion {
    request: Box<Request>,
    result: i32,
}

/// The ring of one thread. Dropped with requests in flight it leaks these: the kernel may not be done with them.
pub(crate) struct Ring {
    uring: IoUring,
    /// Signalled when something is done: the ring's own descriptor is not, with completions that are asked for.
    done: EventFd,
    /// Requests that were pushed and whose completion was not taken.
    has: usize,
}

impl Ring {
    /// # Errors
    /// Why there is no io_uring here: an old kernel, kernel.io_uring_disabled, a filter of system calls.
    pub(crate) fn new() -> io::Result<Self> {
        // Since Linux 6.1: completions come when the thread asks for them, and interrupt nothing.
        Self::build(true).or_else(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => Self::build(false),
            _ => Err(error),
        })
    }

    fn build(deferred: bool) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_clamp();
        if deferred {
            builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        }
        let uring = builder.build(REQUESTS)?;
        let parameters = uring.params();
        // 5.12; also that a request's slices are read when it is submitted, and that no completion is lost.
        if !parameters.is_feature_native_workers() || !parameters.is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "Linux is older than 5.12"));
        }
        let done = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        uring.submitter().register_eventfd(done.as_fd().as_raw_fd())?;
        Ok(Self { uring, done, has: 0 })
    }

    /// Submits a request for `file` at offset `at`. What the kernel does not take now is submitted by `turn`.
    ///
    /// Each at once, and not all that there are for one system call: while the next are looked at, the medium is at
    /// work on these.
    ///
    /// # Errors
    /// There is no room: what was given comes back.
    pub(crate) fn push(
        &mut self,
        file: Keep,
        at: u64,
        transfer: Transfer,
        then: Then,
    ) -> Result<(), (Transfer, Then)> {
        if self.uring.submission().is_full() {
            self.submit().ok();
        }
        if self.uring.submission().is_full() {
            return Err((transfer, then));
        }
        let fd = Fd(file.as_fd().as_raw_fd());
        let mut request = Box::new(Request { transfer, slices: Vec::new(), then, _file: file });
        let Request { transfer, slices, .. } = &mut *request;
        let entry = match transfer {
            Transfer::Read { bytes, len, direct } => {
                let flags = if *direct { NOWAIT } else { 0 };
                let spare = bytes.spare_capacity_mut();
                assert!(*len <= spare.len(), "a read needs its room beforehand");
                let len = u32::try_from(*len).expect("less than 4 GiB");
                opcode::Read::new(fd, spare.as_mut_ptr().cast(), len)
                    .offset(at)
                    .rw_flags(flags)
                    .build()
            }
            Transfer::Write { pages, durable } => {
                slices.extend(pages.slices().map(|slice| libc::iovec {
                    // The kernel only reads from it.
                    iov_base: slice.as_ptr().cast_mut().cast(),
                    iov_len: slice.len(),
                }));
                let count = u32::try_from(slices.len()).expect("a page each");
                let flags = NOWAIT | if *durable { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(fd, slices.as_ptr(), count).offset(at).rw_flags(flags).build()
            }
        };
        let request = Box::into_raw(request);
        let entry = entry.user_data(request.expose_provenance() as u64);
        // SAFETY: what the entry points to is part of the request or owned by it, on the heap, and nobody touches
        // or frees it before `turn` has taken its completion. The file is open until then.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        if pushed.is_err() {
            // SAFETY: it was just made from a box, and the ring has not taken it.
            let Request { transfer, then, .. } = *unsafe { Box::from_raw(request) };
            return Err((transfer, then));
        }
        self.has += 1;
        // What is not taken now stays in the queue, and `turn` submits it.
        self.submit().ok();
        Ok(())
    }

    /// It has no request.
    pub(crate) const fn is_idle(&self) -> bool {
        self.has == 0
    }

    /// A turn is due that nothing signals: something was pushed and not submitted.
    pub(crate) fn is_filled(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// Becomes readable anew whenever something is done. Nobody reads from it.
    pub(crate) fn done(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }

    /// Submits what was not taken when it was pushed, and takes what is done.
    pub(crate) fn turn(&mut self, done: &mut Vec<Completion>) -> Due {
        let failed = self.is_due() && self.submit().is_err();
        self.take(done);
        match self.is_due() {
            false => Due::Nothing,
            true if failed => Due::Later,
            true => Due::Now,
        }
    }

    /// The kernel has to be called: for requests that it has not taken, or for completions that it has not told.
    fn is_due(&mut self) -> bool {
        let queue = self.uring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Fails when the ring is full (EBUSY), or when there is no memory at the moment (EAGAIN).
    fn submit(&self) -> io::Result<usize> {
        self.uring.submit()
    }

    /// Takes what is done.
    pub(crate) fn take(&mut self, done: &mut Vec<Completion>) {
        for entry in self.uring.completion() {
            let request: *mut Request = std::ptr::with_exposed_provenance_mut(
                usize::try_from(entry.user_data()).unwrap_or(0),
            );
            // SAFETY: only `push` makes entries: the number is the address of a request that it made from a box,
            // and the kernel gives it back once, when it is done with all of it.
            let request = unsafe { Box::from_raw(request) };
            self.has -= 1;
            done.push(Completion { request, result: entry.result() });
        }
    }
}

impl Completion {
    /// Tells who asked.
    pub(crate) fn tell(self) {
        let Request { mut transfer, then, .. } = *self.request;
        let moved = usize::try_from(self.result)
            .map_err(|_| io::Error::from_raw_os_error(self.result.saturating_neg()));
        if let (Transfer::Read { bytes, len, .. }, Ok(n)) = (&mut transfer, &moved) {
            assert!(n <= len, "the kernel has read more than was asked for");
            // SAFETY: n <= len <= the spare capacity, and the kernel has written the first n bytes of it.
            unsafe { bytes.set_len(bytes.len() + n) };
        }
        then(moved, transfer);
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ring")
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::mpsc};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn what_is_done_is_told_with_and_without_deferred_completions() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        let file = Arc::new(file);
        for deferred in [true, false] {
            let mut ring = match Ring::build(deferred) {
                Ok(ring) => ring,
                Err(error) => {
                    println!("SKIPPED: no io_uring here, deferred {deferred}: {error}");
                    continue;
                }
            };
            let (tell, told) = mpsc::channel();
            let bytes = Vec::with_capacity(4096);
            let transfer = Transfer::Read { bytes, len: 4096, direct: false };
            let then = move |moved: io::Result<usize>, transfer| {
                tell.send((moved.unwrap(), transfer)).unwrap();
            };
            let pushed =
                ring.push(Arc::<std::fs::File>::clone(&file), 4096, transfer, Box::new(then));
            assert!(pushed.is_ok() && !ring.is_filled());
            let mut done = Vec::new();
            ring.take(&mut done);
            while done.is_empty() {
                let mut event = [PollFd::new(ring.done(), PollFlags::POLLIN)];
                let soon = PollTimeout::try_from(20_000).unwrap();
                assert_eq!(
                    poll(&mut event, soon).unwrap(),
                    1,
                    "nothing is told, deferred {deferred}"
                );
                ring.turn(&mut done);
            }
            done.into_iter().for_each(Completion::tell);
            let (moved, transfer) = told.try_recv().unwrap();
            assert!(
                matches!(transfer, Transfer::Read { bytes, .. } if moved == 4096 && bytes == [7; 4096])
            );
        }
    }
}
