//! Requests that take microseconds each: one thread of the tenant does those of a connection, one after the other.
//!
//! To wake a thread for each of them costs more than they do. `blocking` puts them here; what comes while a
//! thread is at it wakes nobody.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::blocking::Task;
use crate::tenant::{Tenant, Work};

/// How long a thread goes on before others have their turn.
const SLICE: Duration = Duration::from_millis(2);

/// The queue of a connection. Clones are the same queue.
#[derive(Debug, Clone, Default)]
pub(super) struct Serial(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    tasks: VecDeque<Box<Task>>,
    /// A thread is at it, or is on its way.
    served: bool,
}

impl Serial {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a task; a thread of `tenant` does it.
    pub(super) fn push(&self, task: Box<Task>, tenant: &Tenant) {
        let mut state = self.lock();
        state.tasks.push_back(task);
        if !std::mem::replace(&mut state.served, true) {
            drop(state);
            tenant.submit(Box::new(self.clone()));
        }
    }

    /// The next task; without one the thread is done.
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
