//! Reads and writes files by io_uring(7), with one ring per thread.
//!
//! A thread with an event loop calls `attach` and runs `Turns` on the loop, which reports the requests that are done. A
//! request is submitted when it is pushed.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

pub use crate::sys::ring::Due;
use crate::sys::ring::{Completion, Keep, Ring, Then, Transfer};

/// How files are read and written: `--io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Io {
    /// By io_uring if the kernel has it and allows it, otherwise by threads.
    #[default]
    Auto,
    /// By io_uring.
    Uring,
    /// By threads that block.
    Threads,
}

/// How long a thread waits before it tries again to make a ring, after there was no memory or descriptor for one.
const RETRY: Duration = Duration::from_secs(1);

static CHOSEN: AtomicU8 = AtomicU8::new(Io::Auto as u8);

/// False between `choose` and `settle`, while it is not known whether io_uring works.
static SETTLED: AtomicBool = AtomicBool::new(true);

/// Whether there are rings. Found out, and logged, when the first file is opened for a client.
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
        // Each thread tries again.
        Err(error) if is_short(&error) => true,
        Err(error) => {
            tracing::info!("files are read and written by threads: no io_uring: {}", why(&error));
            false
        }
    }
});

/// Sets the choice for the process. Call it before a file is opened. io_uring is not tried before `settle`.
pub fn choose(io: Io) {
    CHOSEN.store(io as u8, Ordering::Relaxed);
    SETTLED.store(false, Ordering::Relaxed);
}

/// Call it when the process has its final user, which decides whether it may use io_uring.
///
/// # Errors
/// `Io::Uring` was chosen, and io_uring does not work.
pub fn settle() -> io::Result<()> {
    SETTLED.store(true, Ordering::Relaxed);
    if CHOSEN.load(Ordering::Relaxed) == Io::Uring as u8 {
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
    /// When to try again after there was no memory or descriptor for a ring.
    retry: Option<Instant>,
    /// The waker of `Turns`, while it waits for requests to submit.
    waker: Option<Waker>,
    /// The waker of `drained`.
    ending: Option<Waker>,
}

impl Here {
    /// The thread's ring. Made if there is none.
    fn ring(&mut self) -> Option<&mut Ring> {
        if self.ring.is_none() {
            if self.retry.is_some_and(|retry| Instant::now() < retry) {
                return None;
            }
            match Ring::new() {
                Ok(ring) => self.ring = Some(ring),
                Err(error) => {
                    tracing::warn!("no io_uring for one more thread: {}", why(&error));
                    self.attached = is_short(&error);
                    self.retry = Some(Instant::now() + RETRY);
                }
            }
        }
        self.ring.as_mut()
    }
}

/// Whether the error is temporary: there is no memory or descriptor now.
fn is_short(error: &io::Error) -> bool {
    let errnos = [libc::ENOMEM, libc::EAGAIN, libc::EMFILE, libc::ENFILE];
    error.raw_os_error().is_some_and(|errno| errnos.contains(&errno))
}

thread_local! {
    static HERE: RefCell<Here> = RefCell::default();
}

/// Whether this process reads and writes files by io_uring. Before `settle` this may still change to false.
pub(crate) fn is_used() -> bool {
    if SETTLED.load(Ordering::Relaxed) {
        *USED
    } else {
        CHOSEN.load(Ordering::Relaxed) != Io::Threads as u8
    }
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
        let Some(ring) = here.ring() else { return Err((transfer, then)) };
        ring.push(file, at, transfer, then)?;
        ring.take(&mut done);
        if (first || ring.is_filled())
            && let Some(waker) = here.waker.take()
        {
            waker.wake();
        }
        Ok(())
    });
    tell(done);
    pushed
}

/// Reports the results. A panic in one waiter is logged, and affects neither the other waiters nor the thread.
fn tell(done: Vec<Completion>) {
    for completion in done {
        catch_unwind(AssertUnwindSafe(|| completion.tell())).ok();
    }
}

/// Waits until this thread's ring has no request in flight, and takes no more requests. `Turns` must continue
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

/// Processes the completions of this thread's ring. It must stay on the thread.
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

    /// Waits until there are requests that the kernel has not accepted yet.
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

    /// Submits requests that the kernel has not accepted yet, and reports completed ones. Returns whether another turn
    /// is due.
    pub fn turn(&self) -> Due {
        let mut done = Vec::new();
        let mut due = Due::Nothing;
        HERE.with_borrow_mut(|here| {
            if let Some(ring) = &mut here.ring {
                due = ring.turn(&mut done);
                if ring.is_idle()
                    && let Some(ending) = here.ending.take()
                {
                    ending.wake();
                }
            }
        });
        tell(done);
        due
    }
}
