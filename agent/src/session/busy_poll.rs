//! Whether to look once more before going to sleep.
//!
//! Waking an idle core costs more than a request: a client that answers at once is worth a short
//! poll. Each turn lets every other connection of the thread go first. Where polling has not paid
//! lately it is tried rarely, so an idle or slow connection costs next to nothing.

/// Most turns in a row; one takes about half a microsecond.
const MOST: u32 = 64;
/// Waits without a poll after one that did not pay; doubles up to this.
const MOST_PAUSE: u32 = 64;

/// The polling of one connection.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// Turns left before sleep.
    left: u32,
    /// This wait has been polled for.
    polled: bool,
    /// Waits that will not be polled for.
    skip: u32,
    /// How many will be skipped after the next poll that does not pay.
    pause: u32,
}

impl Default for BusyPoll {
    fn default() -> Self {
        Self { left: MOST, polled: false, skip: 0, pause: 1 }
    }
}

impl BusyPoll {
    /// Something came: if it came while polling, polling pays. With `more` the rest of a message
    /// is on its way and always worth a poll: to sleep in the middle of a large write lets the
    /// client's send buffer run full, and then both ends wait for wake-ups.
    pub(super) fn hit(&mut self, more: bool) {
        if self.polled {
            self.pause = 1;
        }
        self.polled = false;
        self.left = if more || self.skip == 0 { MOST } else { 0 };
    }

    /// Is another look worth while?
    pub(super) fn turn(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.polled = true;
        true
    }

    /// Going to sleep.
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
