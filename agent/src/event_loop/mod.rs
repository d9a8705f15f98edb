//! A thread with an event loop of its own: a single-threaded runtime of tokio, and a ring for the files that its
//! connections use.
//!
//! `serve` has one per processor, which connections share, and one per VM whose memory it accesses. `tenant` has one
//! for each connection that may block it.

mod ring;

use std::{io, sync::mpsc, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// The thread. After a drop it ends when the ring has finished its requests. Nothing waits for that, so a disk that
/// hangs does not delay the agent.
#[derive(Debug)]
pub(crate) struct EventLoop {
    handle: Handle,
    /// Its drop ends the thread.
    _alive: oneshot::Sender<()>,
}

impl EventLoop {
    /// Starts a thread named `name`, and keeps `guard` until the thread ends.
    ///
    /// # Errors
    /// Those of starting a thread and of creating its event loop: no more threads, descriptors or memory.
    pub(crate) fn start(name: String, guard: impl Send + 'static) -> io::Result<Self> {
        let (alive, ended) = oneshot::channel::<()>();
        let (tell, told) = mpsc::sync_channel(1);
        // The runtime is created on its thread. So if the thread cannot be started, no runtime has to be dropped here,
        // which tokio does not allow on the main thread's runtime.
        thread::Builder::new().name(name).spawn(move || {
            let _guard = guard;
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return tell.send(Err(error)).unwrap_or_default(),
            };
            tell.send(Ok(runtime.handle().clone())).ok();
            runtime.spawn(ring::run(disk::ring::attach()));
            runtime.block_on(async {
                // It waits for the error: the sender is dropped.
                ended.await.ok();
                disk::ring::drained().await;
            });
            // Work on tokio's blocking threads is not waited for either.
            runtime.shutdown_background();
        })?;
        let handle = told.recv().map_err(io::Error::other)??;
        Ok(Self { handle, _alive: alive })
    }

    /// The handle to spawn tasks on the thread.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}
