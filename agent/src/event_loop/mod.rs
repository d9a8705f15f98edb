//! A thread with an event loop of its own: a runtime of tokio for one thread, and a ring for the files that its
//! connections use.
//!
//! `serve` has one a processor, which connections share, and one for each VM whose memory is read and written;
//! `tenant` has one for each connection that may block it.

mod ring;

use std::{io, sync::mpsc, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// The thread; dropped, it ends when the ring is done with what it has. Nobody waits for that: a disk that hangs
/// does not hold the agent.
#[derive(Debug)]
pub(crate) struct EventLoop {
    handle: Handle,
    /// Dropped to end the thread.
    _alive: oneshot::Sender<()>,
}

impl EventLoop {
    /// Starts a thread of that name, and keeps `guard` until it ends.
    ///
    /// # Errors
    /// Those of starting a thread, and of making what it waits by: no more threads, descriptors or memory.
    pub(crate) fn start(name: String, guard: impl Send + 'static) -> io::Result<Self> {
        let (alive, ended) = oneshot::channel::<()>();
        let (tell, told) = mpsc::sync_channel(1);
        // The runtime is made on its thread: where no thread can be started, none has to be dropped here,
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
                // An error is what is waited for: the sender is dropped.
                ended.await.ok();
                disk::ring::drained().await;
            });
            // Work on tokio's own threads is not waited for either.
            runtime.shutdown_background();
        })?;
        let handle = told.recv().map_err(io::Error::other)??;
        Ok(Self { handle, _alive: alive })
    }

    /// To run something on the thread.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}
