//! Who changes a part of a block past the page cache does so alone: it reads the block, changes it and writes it
//! back. All others who change anything do so together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Shared by all who have the same file open. Clones are the same.
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
    /// Those that wait to be alone: nobody else begins before them.
    waiting: usize,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics half way.
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

/// A change with others. It ends when dropped, on any thread.
#[derive(Debug)]
pub(super) struct Together(Edges);

/// A change alone. It ends when dropped.
#[derive(Debug)]
pub(super) struct Alone(Edges);

impl Edges {
    /// Waits while somebody is alone or wants to be.
    pub(super) fn together(&self) -> Together {
        let may = |state: &State| !state.alone && state.waiting == 0;
        self.0.wait(self.0.lock(), may).together += 1;
        Together(self.clone())
    }

    /// The same without waiting.
    pub(super) fn try_together(&self) -> Option<Together> {
        let mut state = self.0.lock();
        if state.alone || state.waiting > 0 {
            return None;
        }
        state.together += 1;
        drop(state);
        Some(Together(self.clone()))
    }

    /// Waits until nobody else changes anything.
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
    fn who_wants_to_be_alone_waits_for_the_others_and_comes_before_the_next() {
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
