//! Pauses and resumes requests by commands on a socket: nbdkit-pause-filter(1).

mod control;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use self::control::Socket;
use super::{Entry, absolute};
use crate::{params::Key, stack::BuildError};
use disk::{Answer, Asked, Disk, DiskError, Layer, Op, Progress, Throttle};

pub(super) const ENTRY: Entry = Entry {
    name: "pause",
    about: "Pause and resume requests",
    keys: &[Key::once("pause-control", "SOCKET", "The socket for commands: p pauses, r resumes")],
    build: |params, stack, context| {
        let path = absolute(params.needed("pause-control")?);
        let state = Arc::new(State::default());
        let socket = Socket::bind(path).map_err(|error| BuildError::Own(Box::new(error)))?;
        let name = socket.name();
        tokio::spawn(socket.serve(Arc::clone(&state)));
        context.lifecycle.at_exit(move || name.remove());
        Ok(stack.each(move |below, _| Ok(Arc::new(Pause { below, state: Arc::clone(&state) }))))
    },
};

/// Shared by all connections.
#[derive(Debug, Default)]
struct State {
    inner: Mutex<Inner>,
    /// For threads whose request passed `throttle` before the pause.
    resumed_threads: Condvar,
    on_resume: Notify,
    idle: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    paused: bool,
    /// Requests that are being executed.
    busy: usize,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no request begin from now on, and waits for those that have begun.
    async fn pause(&self) {
        self.lock().paused = true;
        wait(&self.idle, || {
            let inner = self.lock();
            // After a resume by another client there is nothing to wait for.
            inner.busy == 0 || !inner.paused
        })
        .await;
    }

    fn resume(&self) {
        self.lock().paused = false;
        self.on_resume.notify_waiters();
        self.resumed_threads.notify_all();
        self.idle.notify_waiters();
    }

    /// Waits while requests are paused.
    async fn resumed(&self) {
        wait(&self.on_resume, || !self.lock().paused).await;
    }

    /// Counts a request until the guard is dropped. Blocks if the pause came after `resumed`.
    fn begin(&self) -> Busy<'_> {
        let inner = self.resumed_threads.wait_while(self.lock(), |inner| inner.paused);
        inner.unwrap_or_else(PoisonError::into_inner).busy += 1;
        Busy(self)
    }
}

/// Waits until `done` is true. A notification follows each change of it.
async fn wait(notify: &Notify, done: impl Fn() -> bool) {
    loop {
        let notified = notify.notified();
        let mut notified = std::pin::pin!(notified);
        notified.as_mut().enable();
        if done() {
            return;
        }
        notified.await;
    }
}

struct Busy<'a>(&'a State);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.busy -= 1;
        if inner.busy == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

#[derive(Debug)]
struct Pause {
    below: Arc<dyn Disk>,
    state: Arc<State>,
}

// No request passes: each one comes to `execute`, which counts it.
impl Layer for Pause {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let _busy = self.state.begin();
        self.below.execute(op, answer)
    }

    fn throttles(&self) -> bool {
        true
    }

    fn throttle(&self, asked: Asked) -> Throttle<'_> {
        Box::pin(async move {
            self.below.throttle(asked).await;
            self.state.resumed().await;
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{task, thread};

    use super::*;
    use disk::{MemoryDisk, Verb, testing};

    const READ: Asked = Asked { verb: Verb::Read, range: (0, 1), fast: false, durable: false };

    fn is_ready(future: impl Future) -> bool {
        let waker = task::Waker::noop();
        std::pin::pin!(future).poll(&mut task::Context::from_waker(waker)).is_ready()
    }

    #[tokio::test]
    async fn no_request_begins_while_paused() {
        let state = Arc::new(State::default());
        let below = Arc::new(MemoryDisk::new(1 << 20));
        let disk = Arc::new(Pause { below, state: Arc::clone(&state) });
        assert!(Disk::throttles(&*disk) && is_ready(Disk::throttle(&*disk, READ)));
        state.pause().await;
        assert!(!is_ready(Disk::throttle(&*disk, Asked { verb: Verb::Flush, ..READ })));
        // This request passed `throttle` before the pause.
        let late = Arc::clone(&disk);
        let thread = thread::spawn(move || testing::read(&*late, 0, 1));
        assert!(is_ready(state.pause()), "it is paused already");
        state.resume();
        Disk::throttle(&*disk, READ).await;
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn a_pause_waits_for_requests_that_have_begun() {
        let state = State::default();
        let (one, other) = (state.begin(), state.begin());
        let mut pausing = Box::pin(state.pause());
        assert!(!is_ready(&mut pausing));
        drop(one);
        assert!(!is_ready(&mut pausing));
        drop(other);
        pausing.await;
        state.resume();
        let busy = state.begin();
        let mut pausing = Box::pin(state.pause());
        assert!(!is_ready(&mut pausing));
        state.resume();
        pausing.await;
        drop(busy);
    }
}
