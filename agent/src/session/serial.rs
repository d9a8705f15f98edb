//! Requests that take microseconds each: one thread of the tenant executes those of a connection, one after the other.
//!
//! To wake a thread for each request would cost more than the request itself. `blocking` queues them here. A request
//! that is queued while a thread works on the queue wakes no thread.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::blocking::Task;
use crate::tenant::{Tenant, Work};

/// How long a thread works on one queue before other work gets its turn.
const SLICE: Duration = Duration::from_millis(2);

/// The queue of a connection. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Serial(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    tasks: VecDeque<Box<Task>>,
    /// A thread works on the queue, or has been asked to.
    served: bool,
}

impl Serial {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics, so the state is consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a task; a thread of `tenant` executes it.
    pub(super) fn push(&self, task: Box<Task>, tenant: &Tenant) {
        let mut state = self.lock();
        state.tasks.push_back(task);
        if !std::mem::replace(&mut state.served, true) {
            drop(state);
            tenant.submit(Box::new(self.clone()));
        }
    }

    /// The next task. If there is none, the thread has finished with the queue.
    fn next(&self) -> Option<Box<Task>> {
        let mut state = self.lock();
        let next = state.tasks.pop_front();
        state.served = next.is_some();
        next
    }
}

impl Work for Serial {
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
