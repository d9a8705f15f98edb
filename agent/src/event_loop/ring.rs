//! The turns of an engine thread's ring, on the thread's own event loop (`disk::ring`).

use std::{os::fd::OwnedFd, time::Duration};

use disk::ring::{Due, Turns};
use tokio::io::unix::AsyncFd;

use crate::sys::poll;

/// Between two looks where the event loop does not take the ring, or the kernel not its requests, for want of memory.
const LOOK: Duration = Duration::from_millis(1);

/// Tells disks what the kernel has done for them, for ever. It is a task and not part of the thread's main
/// future: to wake that costs a system call.
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

/// Something may be done.
async fn is_done(ready: Option<&AsyncFd<OwnedFd>>) {
    match ready {
        Some(ready) => {
            // Before it is looked at: what is done from now on is told again.
            if let Ok(mut guard) = ready.readable().await {
                guard.clear_ready();
            }
        }
        None => tokio::time::sleep(LOOK).await,
    }
}
