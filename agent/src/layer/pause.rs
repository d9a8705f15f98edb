//! Stops requests and lets them go again, as it is told on a socket: nbdkit-pause-filter(1).

mod control;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use self::control::Socket;
use super::{Entry, absolute};
use crate::{params::Key, stack::BuildError};
use disk::{Answer, Asked, Disk, DiskError, Layer, Op, Progress, Throttle};

pub(super) const ENTRY: Entry = Entry {
    name: "pause",
    about: "Stop requests and let them go again",
    keys: &[Key::once("pause-control", "SOCKET", "Where it is told: p to stop, r to go on")],
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
    /// For threads that came too late to be held.
    resumed_threads: Condvar,
    resumed: Notify,
    idle: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    paused: bool,
    /// Requests that are being performed.
    busy: usize,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no request begin from now on, and waits until none is left that has begun.
    async fn pause(&self) {
        self.lock().paused = true;
        wait(&self.idle, || {
            let inner = self.lock();
            // Another has resumed meanwhile: then there is nothing to wait for.
            inner.busy == 0 || !inner.paused
        })
        .await;
    }

    fn resume(&self) {
        self.lock().paused = false;
        self.resumed.notify_waiters();
        self.resumed_threads.notify_all();
        self.idle.notify_waiters();
    }

    /// Waits while it is paused.
    async fn held(&self) {
        wait(&self.resumed, || !self.lock().paused).await;
    }

    /// Counts a request until what is returned is dropped. Waits if it was paused since `held`.
    fn begin(&self) -> Busy<'_> {
        let inner = self.resumed_threads.wait_while(self.lock(), |inner| inner.paused);
        inner.unwrap_or_else(PoisonError::into_inner).busy += 1;
        Busy(self)
    }
}

/// Waits until `done`, which becomes true before a notification.
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
            self.state.held().await;
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
    async fn nothing_begins_while_it_is_paused() {
        let state = Arc::new(State::default());
        let below = Arc::new(MemoryDisk::new(1 << 20));
        let disk = Arc::new(Pause { below, state: Arc::clone(&state) });
        assert!(Disk::throttles(&*disk) && is_ready(Disk::throttle(&*disk, READ)));
        state.pause().await;
        assert!(!is_ready(Disk::throttle(&*disk, Asked { verb: Verb::Flush, ..READ })));
        // One that was held no longer when the pause came.
        let late = Arc::clone(&disk);
        let thread = thread::spawn(move || testing::read(&*late, 0, 1));
        assert!(is_ready(state.pause()), "it is paused already");
        state.resume();
        Disk::throttle(&*disk, READ).await;
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn what_has_begun_is_waited_for() {
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
