//! The turns of an engine thread's ring, on the thread's own event loop (`disk::ring`).

use std::{os::fd::OwnedFd, time::Duration};

use disk::ring::{Due, Turns};
use tokio::io::unix::AsyncFd;

use crate::sys::poll;

/// The interval of polling, if for lack of memory the event loop cannot watch the ring or the kernel does not accept
/// its requests.
const LOOK: Duration = Duration::from_millis(1);

/// Reports completed requests to the disks. Never returns. It is a task and not part of the thread's main future:
/// waking the main future costs a system call.
pub(super) async fn run(turns: Turns) {
    turns.made().await;
    let ready = turns.done().and_then(poll::readable);
    let ready = ready
        .inspect_err(|error| tracing::warn!("cannot wait for io_uring, looking at it: {error}"));
    loop {
        match turns.turn() {
            Due::Nothing => tokio::select! {
                () = turns.filled() => {}
                () = is_done(ready.as_ref().ok()) => {}
            },
            Due::Now => tokio::task::yield_now().await,
            Due::Later => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Waits until requests may have completed.
async fn is_done(ready: Option<&AsyncFd<OwnedFd>>) {
    match ready {
        Some(ready) => {
            // Cleared before the ring is read, so that later completions are announced again.
            if let Ok(mut guard) = ready.readable().await {
                guard.clear_ready();
            }
        }
        None => tokio::time::sleep(LOOK).await,
    }
}
