//! The client of a request to the remote server, and how long to wait for the answer.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long the remote server may leave the requests of a client unanswered after the client has gone. A client that
/// has stopped sending and still reads looks the same. If such a client were cut off, other clients would be told that
/// its unflushed writes are lost.
const GONE: Duration = Duration::from_secs(10);
/// Time between two checks whether the answer is still wanted.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Waits for answers without a limit, until its client has gone.
#[derive(Debug)]
pub(super) struct Asker {
    /// The number of the link if it is the asker's own. Such a link ends when its answers are given up.
    pub(super) link: Option<u64>,
    patience: Duration,
    /// Start of the server's silence. `None` while the silence does not count.
    since: Mutex<Option<Instant>>,
    over: AtomicBool,
}

impl Asker {
    /// For a client that is connected.
    pub(super) fn present(link: Option<u64>) -> Self {
        Self { link, patience: GONE, since: Mutex::default(), over: AtomicBool::new(false) }
    }

    /// For one request, which may take `patience` from now on.
    pub(super) fn within(patience: Duration, link: u64) -> Self {
        let since = Mutex::new(Some(Instant::now()));
        Self { link: Some(link), patience, since, over: AtomicBool::new(false) }
    }

    /// Notes that the client has gone.
    pub(super) fn leave(&self) {
        self.since().get_or_insert_with(Instant::now);
    }

    /// Notes that one of its requests was answered.
    pub(super) fn answered(&self) {
        if let Some(since) = &mut *self.since() {
            *since = Instant::now();
        }
    }

    /// Whether no answer is waited for any more.
    pub(super) fn is_over(&self) -> bool {
        // An answer that arrives too late changes nothing.
        if self.since().is_some_and(|since| since.elapsed() >= self.patience) {
            self.over.store(true, Ordering::Relaxed);
        }
        self.over.load(Ordering::Relaxed)
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn answers_are_waited_for_until_the_client_has_gone_and_the_server_is_silent() {
        let patience = Duration::from_millis(300);
        let asker = Asker { patience, ..Asker::present(None) };
        thread::sleep(patience);
        assert!(!asker.is_over(), "its client is there");
        asker.leave();
        assert!(!asker.is_over(), "it may still be answered");
        thread::sleep(patience / 3 * 2);
        asker.answered();
        thread::sleep(patience / 3 * 2);
        assert!(!asker.is_over(), "the server answers");
        thread::sleep(patience / 3 * 2);
        assert!(asker.is_over());
        asker.answered();
        assert!(asker.is_over(), "it stays so");
    }
}
