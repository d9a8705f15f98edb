//! The lock for changes past the page cache. A change of a part of a block runs alone, since it reads the block, changes
//! it and writes it back. All other changes may run together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The lock of a file, which all connections to it share. Clones are the same lock.
#[derive(Debug, Clone, Default)]
pub(super) struct Edges(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    together: usize,
    alone: bool,
    /// The number of changes that wait to run alone. No other change begins before them.
    waiting: usize,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under the lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        until: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_while(state, |state| !until(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change that runs with others. It ends when dropped, on any thread.
#[derive(Debug)]
pub(super) struct Together(Edges);

/// A change that runs alone. It ends when dropped.
#[derive(Debug)]
pub(super) struct Alone(Edges);

impl Edges {
    /// Waits while a change runs alone or waits to.
    pub(super) fn together(&self) -> Together {
        let may = |state: &State| !state.alone && state.waiting == 0;
        self.0.wait(self.0.lock(), may).together += 1;
        Together(self.clone())
    }

    /// As `together`, without waiting.
    pub(super) fn try_together(&self) -> Option<Together> {
        let mut state = self.0.lock();
        if state.alone || state.waiting > 0 {
            return None;
        }
        state.together += 1;
        drop(state);
        Some(Together(self.clone()))
    }

    /// Waits until no other change runs.
    pub(super) fn alone(&self) -> Alone {
        let mut state = self.0.lock();
        state.waiting += 1;
        let mut state = self.0.wait(state, |state| !state.alone && state.together == 0);
        state.waiting -= 1;
        state.alone = true;
        drop(state);
        Alone(self.clone())
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        let inner = &self.0.0;
        let mut state = inner.lock();
        state.together -= 1;
        if state.together == 0 && state.waiting > 0 {
            inner.changed.notify_all();
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let inner = &self.0.0;
        inner.lock().alone = false;
        inner.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::channel, thread, time::Duration};

    use super::*;

    #[test]
    fn a_change_alone_waits_for_running_changes_and_comes_before_later_ones() {
        let edges = Edges::default();
        let (first, second) = (edges.together(), edges.try_together().unwrap());
        let (tell, told) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let alone = edges.alone();
                tell.send("alone").unwrap();
                assert!(edges.try_together().is_none());
                drop(alone);
            });
            while edges.0.lock().waiting == 0 {
                thread::yield_now();
            }
            assert!(edges.try_together().is_none(), "somebody waits to be alone");
            let tell = tell.clone();
            let edges = &edges;
            scope.spawn(move || {
                let _together = edges.together();
                tell.send("together").unwrap();
            });
            drop(first);
            assert!(told.recv_timeout(Duration::from_millis(20)).is_err(), "one is left");
            drop(second);
            let soon = Duration::from_secs(20);
            assert_eq!(told.recv_timeout(soon).unwrap(), "alone");
            assert_eq!(told.recv_timeout(soon).unwrap(), "together");
        });
        assert!(edges.try_together().is_some());
    }
}
