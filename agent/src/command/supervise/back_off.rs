//! How long the supervisor waits before it starts the agent again.

use std::time::Duration;

/// A run of this length was no failure of the start: the next start follows at once.
const GOOD_RUN: Duration = Duration::from_secs(2);
/// Shortest and longest wait.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

#[derive(Debug)]
pub(super) struct BackOff {
    next: Duration,
}

impl BackOff {
    pub(super) fn new() -> Self {
        Self { next: WAIT.0 }
    }

    /// The wait after a run of this length.
    pub(super) fn after(&mut self, run: Duration) -> Duration {
        if run >= GOOD_RUN {
            self.next = WAIT.0;
            return Duration::ZERO;
        }
        let wait = self.next;
        self.next = (wait * 2).min(WAIT.1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_and_a_good_run_ends_it() {
        let mut back_off = BackOff::new();
        let short = Duration::from_secs(1);
        let waits: Vec<_> = (0..8).map(|_| back_off.after(short).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(back_off.after(GOOD_RUN), Duration::ZERO);
        assert_eq!(back_off.after(short), WAIT.0);
    }
}
