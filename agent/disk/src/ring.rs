//! Reads and writes files by io_uring(7), with one ring per thread.
//!
//! A thread with an event loop calls `attach` and runs `Turns` on the loop, which reports the requests that are done. A
//! request is submitted when it is pushed.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    sync::{
        LazyLock,
        atomic::{AtomicU8, Ordering},
    },
    task::{Poll, Waker},
};

use crate::sys::ring::{Completion, Keep, Ring, Then, Transfer};

/// The way in which files are read and written: `--io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Io {
    /// By io_uring if the kernel has it and allows it, else by threads.
    #[default]
    Auto,
    /// By io_uring.
    Uring,
    /// By threads that block.
    Threads,
}

static CHOSEN: AtomicU8 = AtomicU8::new(Io::Auto as u8);

/// Whether rings are used. This is found out and logged when the first file is opened.
static USED: LazyLock<bool> = LazyLock::new(|| {
    if CHOSEN.load(Ordering::Relaxed) == Io::Threads as u8 {
        tracing::info!("files are read and written by threads (--io=threads)");
        return false;
    }
    match Ring::new() {
        Ok(_) => {
            tracing::info!("files are read and written by io_uring where the filesystem can");
            true
        }
        Err(error) => {
            tracing::info!("files are read and written by threads: no io_uring: {}", why(&error));
            false
        }
    }
});

/// Chooses the way for the process. Call it before a file is opened.
///
/// # Errors
/// `Io::Uring` was chosen, and the kernel does not have or allow io_uring.
pub fn choose(io: Io) -> io::Result<()> {
    CHOSEN.store(io as u8, Ordering::Relaxed);
    if io == Io::Uring {
        Ring::new().map_err(|error| io::Error::new(error.kind(), why(&error)))?;
    }
    Ok(())
}

fn why(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::ENOSYS) => " (the kernel has none, or a filter of system calls hides it)",
        Some(libc::EPERM) => " (sysctl kernel.io_uring_disabled, or a filter of system calls)",
        Some(libc::ENOMEM) => " (see ulimit -l, LimitMEMLOCK= of the unit)",
        _ => "",
    };
    format!("{error}{hint}")
}

#[derive(Debug, Default)]
struct Here {
    /// Whether the thread runs `Turns`.
    attached: bool,
    /// The ring, which is made for the first request.
    ring: Option<Ring>,
    /// The waker of `Turns` while it waits for requests to submit.
    waker: Option<Waker>,
    /// The waker of `drained`.
    ending: Option<Waker>,
}

thread_local! {
    static HERE: RefCell<Here> = RefCell::default();
}

/// Whether this process reads and writes files by io_uring.
pub(crate) fn is_used() -> bool {
    *USED
}

/// Starts `transfer` to or from `file` at offset `at`. If the kernel completes it at once, the result is reported before
/// this returns.
///
/// # Errors
/// This thread has no ring, or the ring has no room. The arguments are returned.
pub(crate) fn push(
    file: Keep,
    at: u64,
    transfer: Transfer,
    then: Then,
) -> Result<(), (Transfer, Then)> {
    let mut done = Vec::new();
    let pushed = HERE.with_borrow_mut(|here| {
        if !here.attached {
            return Err((transfer, then));
        }
        let first = here.ring.is_none();
        if first {
            match Ring::new() {
                Ok(ring) => here.ring = Some(ring),
                Err(error) => {
                    tracing::warn!("no io_uring for one more thread: {}", why(&error));
                    here.attached = false;
                    return Err((transfer, then));
                }
            }
        }
        let ring = here.ring.as_mut().expect("it was just made");
        ring.push(file, at, transfer, then)?;
        ring.take(&mut done);
        if (first || ring.is_filled())
            && let Some(waker) = here.waker.take()
        {
            waker.wake();
        }
        Ok(())
    });
    done.into_iter().for_each(Completion::tell);
    pushed
}

/// Waits until the kernel is done with all requests of this thread's ring, which accepts no more. `Turns` must run
/// meanwhile.
pub async fn drained() {
    poll_fn(|context| {
        HERE.with_borrow_mut(|here| {
            here.attached = false;
            if here.ring.as_ref().is_none_or(Ring::is_idle) {
                return Poll::Ready(());
            }
            here.ending = Some(context.waker().clone());
            Poll::Pending
        })
    })
    .await;
}

/// Processes the completions of this thread's ring. It stays on the thread.
#[derive(Debug)]
pub struct Turns(());

/// Allows requests on this thread's ring. The thread must run the turns from now on.
pub fn attach() -> Turns {
    HERE.with_borrow_mut(|here| here.attached = true);
    Turns(())
}

impl Turns {
    /// Waits until there is a ring, that is, until the first request is pushed.
    pub async fn made(&self) {
        self.until(|here| here.ring.is_some()).await;
    }

    /// Waits until there are requests that the kernel has not taken yet.
    pub async fn filled(&self) {
        self.until(|here| here.ring.as_mut().is_some_and(Ring::is_filled)).await;
    }

    /// Checks again whenever `push` wakes it.
    async fn until(&self, is_so: impl Fn(&mut Here) -> bool) {
        poll_fn(|context| {
            HERE.with_borrow_mut(|here| {
                if is_so(here) {
                    return Poll::Ready(());
                }
                here.waker = Some(context.waker().clone());
                Poll::Pending
            })
        })
        .await;
    }

    /// A descriptor that becomes readable (edge) whenever requests are done. Do not read from it.
    ///
    /// # Errors
    /// No request was pushed yet, or too many files are open.
    pub fn done(&self) -> io::Result<OwnedFd> {
        HERE.with_borrow(|here| {
            let ring = here.ring.as_ref().ok_or(io::ErrorKind::NotFound)?;
            ring.done().try_clone_to_owned()
        })
    }

    /// Submits the requests that the kernel has not taken yet, and reports those that are done.
    pub fn turn(&self) {
        let mut done = Vec::new();
        HERE.with_borrow_mut(|here| {
            if let Some(ring) = &mut here.ring {
                ring.turn(&mut done);
                if ring.is_idle()
                    && let Some(ending) = here.ending.take()
                {
                    ending.wake();
                }
            }
        });
        done.into_iter().for_each(Completion::tell);
    }
}
