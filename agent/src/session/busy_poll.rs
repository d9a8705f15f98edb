//! Decides whether a connection polls once more before it sleeps.
//!
//! Waking an idle core costs more than a request, so a short poll pays with a client that answers at once. Each turn of
//! polling lets every other connection of the thread run first. A connection whose polling has not paid lately polls
//! rarely, so an idle or slow connection costs almost nothing.

/// The maximum of turns in a row; one takes about half a microsecond.
const MOST: u32 = 64;
/// The maximum of waits without a poll after a poll that did not pay. The number doubles up to this.
const MOST_PAUSE: u32 = 64;

/// The polling of one connection.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// Turns left before the connection sleeps.
    left: u32,
    /// There was polling in this wait.
    polled: bool,
    /// Waits that will be without a poll.
    skip: u32,
    /// How many waits will be without a poll after the next poll that does not pay.
    pause: u32,
}

impl Default for BusyPoll {
    fn default() -> Self {
        Self { left: MOST, polled: false, skip: 0, pause: 1 }
    }
}

impl BusyPoll {
    /// Called when something has arrived; if it arrived while polling, polling pays. `more`: the rest of a message is
    /// on its way, which always justifies a poll. Sleeping in the middle of a large write lets the client's send buffer
    /// fill up, and then both ends wait for wake-ups.
    pub(super) fn hit(&mut self, more: bool) {
        if self.polled {
            self.pause = 1;
        }
        self.polled = false;
        self.left = if more || self.skip == 0 { MOST } else { 0 };
    }

    /// Whether to poll once more.
    pub(super) fn turn(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.polled = true;
        true
    }

    /// Called when the connection goes to sleep.
    pub(super) fn stop(&mut self) {
        if self.polled {
            self.skip = self.pause;
            self.pause = (self.pause * 2).min(MOST_PAUSE);
        } else {
            self.skip = self.skip.saturating_sub(1);
        }
        self.polled = false;
        self.left = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns until the next sleep.
    fn poll(spin: &mut BusyPoll) -> u32 {
        let mut turns = 0;
        while spin.turn() {
            turns += 1;
        }
        spin.stop();
        turns
    }

    #[test]
    fn polling_that_never_pays_is_tried_ever_more_rarely() {
        let mut spin = BusyPoll::default();
        let waits = 10_000;
        let mut turns = 0;
        for _ in 0..waits {
            turns += poll(&mut spin);
            spin.hit(false);
        }
        assert!(turns / waits < 2, "{turns} turns in {waits} waits");
    }

    #[test]
    fn polling_that_pays_goes_on() {
        let mut spin = BusyPoll::default();
        for _ in 0..1000 {
            assert!(spin.turn() && spin.turn());
            spin.hit(false);
        }
    }

    #[test]
    fn an_idle_connection_does_not_poll() {
        let mut spin = BusyPoll::default();
        poll(&mut spin);
        assert_eq!((0..1000).map(|_| poll(&mut spin)).sum::<u32>(), 0);
    }

    #[test]
    fn the_middle_of_a_message_is_always_polled_for() {
        let mut spin = BusyPoll::default();
        for _ in 0..100 {
            spin.hit(true);
            assert_eq!(poll(&mut spin), MOST);
        }
    }
}
