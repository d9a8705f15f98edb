//! Requests that take microseconds each: one thread of the tenant executes those of a connection, one after the other.
//!
//! To wake a thread for each request would cost more than the request itself. `blocking` queues them here. A request
//! that is queued while a thread works on the queue wakes no thread.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::tenant::{Tenant, Work};

/// How long a thread works on one queue before other work gets its turn.
const SLICE: Duration = Duration::from_millis(2);

/// Work that is done in parts.
pub(super) trait Step: Send + 'static {
    /// Does all of it, or a part that takes some milliseconds. In that case it is returned for the rest.
    fn go_on(self: Box<Self>) -> Option<Box<Self>>;
}

/// The queue of a connection. Clones share it.
#[derive(Debug)]
pub(super) struct Serial<T>(Arc<Mutex<State<T>>>);

#[derive(Debug)]
struct State<T> {
    tasks: VecDeque<Box<T>>,
    /// A thread works on the queue, or has been asked to.
    served: bool,
}

impl<T> Default for Serial<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { tasks: VecDeque::new(), served: false })))
    }
}

impl<T> Clone for Serial<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Step> Serial<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing under the lock panics, so the state is consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a task; a thread of `tenant` executes it.
    pub(super) fn push(&self, task: Box<T>, tenant: &Tenant) {
        let mut state = self.lock();
        state.tasks.push_back(task);
        if !std::mem::replace(&mut state.served, true) {
            drop(state);
            tenant.submit(Box::new(self.clone()));
        }
    }

    /// The next task. If there is none, the thread has finished with the queue.
    fn next(&self) -> Option<Box<T>> {
        let mut state = self.lock();
        let next = state.tasks.pop_front();
        state.served = next.is_some();
        next
    }
}

impl<T: Step> Work for Serial<T> {
    fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
        let started = Instant::now();
        while let Some(task) = self.next() {
            if let Some(rest) = task.go_on() {
                self.lock().tasks.push_front(rest);
            }
            if started.elapsed() >= SLICE {
                return Some(self);
            }
        }
        None
    }

    fn stays_short(&self) -> bool {
        true
    }
}
