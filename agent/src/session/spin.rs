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
pub(super) struct Spin {
    /// Turns left before sleep.
    left: u32,
    /// This wait has been polled for.
    polled: bool,
    /// Waits that will not be polled for.
    skip: u32,
    /// How many will be skipped after the next poll that does not pay.
    pause: u32,
}

impl Default for Spin {
    fn default() -> Self {
        Self { left: MOST, polled: false, skip: 0, pause: 1 }
    }
}

impl Spin {
    /// Something came: if it came while polling, polling pays.
    pub(super) fn hit(&mut self) {
        if self.polled {
            self.pause = 1;
        }
        self.polled = false;
        self.left = if self.skip == 0 { MOST } else { 0 };
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
