//! A ring of io_uring(7): reads and writes of files that complete without a waiting thread.
//!
//! `ring` has one per thread. The buffers of a request belong to the ring from `push` until the kernel has reported its
//! completion, even if the connection that asked has ended.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::Arc,
};

use io_uring::{IoUring, opcode, types::Fd};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::Pages;

/// Maximum number of requests that wait to be submitted. There are few, because each is submitted when it is pushed.
const REQUESTS: u32 = 256;
/// Number of completions that fit into the ring. The kernel keeps more elsewhere (IORING_FEAT_NODROP).
const COMPLETIONS: u32 = 1024;

/// A read or a write.
#[derive(Debug)]
pub(crate) enum Transfer {
    /// Reads `len` bytes and appends them to `bytes`, which has room for them. With `direct`, bypasses the page cache.
    Read { bytes: Vec<u8>, len: usize, direct: bool },
    /// Writes all bytes of the pages, bypassing the page cache. With `durable` the medium has them when the request is
    /// done (RWF_DSYNC).
    Write { pages: Pages, durable: bool },
}

/// A request that would block fails with EAGAIN (RWF_NOWAIT). Otherwise one of the kernel's threads would block. These
/// are few and shared by all tenants. A read through the page cache waits without a thread, and does not need the flag.
const NOWAIT: libc::c_int = libc::RWF_NOWAIT;

/// Called with the number of bytes that were moved.
pub(crate) type Then = Box<dyn FnOnce(io::Result<usize>, Transfer) + Send>;

/// The file of a request, which stays open until the request is done.
pub(crate) type Keep = Arc<dyn AsFd + Send + Sync>;

/// A request in the ring.
struct Request {
    transfer: Transfer,
    /// The addresses and lengths of a write's bytes.
    slices: Vec<libc::iovec>,
    then: Then,
    /// The request refers to the file by its number, which must not belong to another file until the request is done.
    _file: Keep,
}

/// Work that is left after a turn and that the kernel does not signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Another turn, after the thread's other tasks. The kernel does a bounded amount of work per call.
    Now,
    /// Another turn in a moment. The kernel could not accept the requests.
    Later,
}

/// A request that is done.
pub(crate) struct Completion {
    request: Box<Request>,
    result: i32,
}

/// The ring of one thread. If it is dropped with requests in flight, they are leaked, because the kernel may still use
/// them.
pub(crate) struct Ring {
    uring: IoUring,
    /// Signalled when requests are done. With deferred completions the ring's own descriptor is not signalled.
    done: EventFd,
    /// The number of requests that were pushed and whose completion was not taken.
    has: usize,
}

impl Ring {
    /// Makes a ring.
    ///
    /// # Errors
    /// io_uring cannot be used: the kernel is old, kernel.io_uring_disabled is set, or a filter of system calls forbids
    /// it.
    pub(crate) fn new() -> io::Result<Self> {
        // Since Linux 6.1: completions are deferred until the thread asks for them, and do not interrupt it.
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
        // Since Linux 5.12. It implies that a request's slices are read when it is submitted, and that no completion is
        // lost.
        if !parameters.is_feature_native_workers() || !parameters.is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "Linux is older than 5.12"));
        }
        let done = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        uring.submitter().register_eventfd(done.as_fd().as_raw_fd())?;
        Ok(Self { uring, done, has: 0 })
    }

    /// Submits a request for `file` at offset `at`. If the kernel does not accept it now, `turn` submits it.
    ///
    /// Each request is submitted at once, and not several by one system call: the medium works on it while the next
    /// ones are parsed.
    ///
    /// # Errors
    /// The ring has no room. The arguments are returned.
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
                    // The kernel only reads from these bytes.
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
        // SAFETY: the entry points to parts of the request or to memory that it owns, on the heap. Nothing touches or
        // frees them before `turn` has taken the completion. The file is open until then.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        if pushed.is_err() {
            // SAFETY: the pointer was just made from a box, and the ring has not taken it.
            let Request { transfer, then, .. } = *unsafe { Box::from_raw(request) };
            return Err((transfer, then));
        }
        self.has += 1;
        // A request that is not accepted now stays in the queue, and `turn` submits it.
        self.submit().ok();
        Ok(())
    }

    /// Whether it has no request.
    pub(crate) const fn is_idle(&self) -> bool {
        self.has == 0
    }

    /// Whether a turn is due that nothing signals: a request was pushed and not submitted.
    pub(crate) fn is_filled(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// A descriptor that becomes readable (edge) whenever requests are done. It is never read.
    pub(crate) fn done(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }

    /// Submits requests that were not accepted when they were pushed, and takes the completed ones.
    pub(crate) fn turn(&mut self, done: &mut Vec<Completion>) -> Due {
        let failed = self.is_due() && self.submit().is_err();
        self.take(done);
        match self.is_due() {
            false => Due::Nothing,
            true if failed => Due::Later,
            true => Due::Now,
        }
    }

    /// Whether the kernel must be called: it has not accepted all requests, or has not reported all completions.
    fn is_due(&mut self) -> bool {
        let queue = self.uring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Fails if the ring is full (EBUSY), or if there is no memory at the moment (EAGAIN).
    fn submit(&self) -> io::Result<usize> {
        self.uring.submit()
    }

    /// Takes completed requests.
    pub(crate) fn take(&mut self, done: &mut Vec<Completion>) {
        for entry in self.uring.completion() {
            let request: *mut Request = std::ptr::with_exposed_provenance_mut(
                usize::try_from(entry.user_data()).unwrap_or(0),
            );
            // SAFETY: only `push` makes entries. The number is the address of a request that was made from a box, and
            // the kernel returns it once, when it is done with the request.
            let request = unsafe { Box::from_raw(request) };
            self.has -= 1;
            done.push(Completion { request, result: entry.result() });
        }
    }
}

impl Completion {
    /// Reports the result to the waiter.
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
    fn completions_are_reported_with_and_without_deferred_completions() {
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
