//! Whose turn it is to send, where the guest gives less room than its connections want: first come, first
//! served, each one turn.
//!
//! A connection that finds no room goes to the end of the line. As the guest gives room, those in front are
//! called, as many as the room is for, and nobody else sends meanwhile. Who has had its turn goes to the
//! end again; who found too little room for all of it stays in front with the rest.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::peers::Key;

/// Bytes of a turn, before others have theirs.
pub(crate) const TURN: usize = 256 * 1024;
/// A connection that was called and has not come after this time holds the others up no longer.
pub(crate) const PATIENCE: Duration = Duration::from_millis(5);

/// A connection, and which one of those between the same ports.
pub(crate) type Name = (Key, u64);

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Outside,
    /// In the line; bytes that its turn has.
    Waiting(usize),
    /// It is its turn.
    Called(usize),
}

/// Those that wait, and those whose turn it is.
#[derive(Debug)]
pub(crate) struct Line {
    waiting: VecDeque<Name>,
    called: Vec<(Name, Instant)>,
    /// Bytes that one of the guest's buffers takes, as it was lately.
    buffer: usize,
    patience: Duration,
}

impl Default for Line {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), called: Vec::new(), buffer: 4096, patience: PATIENCE }
    }
}

impl Line {
    /// Nobody is before one who comes now.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.called.is_empty()
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A buffer of the guest's has room for so many bytes.
    pub(crate) fn measure(&mut self, bytes: usize) {
        self.buffer = bytes.clamp(1, TURN);
    }

    #[cfg(test)]
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    pub(crate) fn join(&mut self, name: Name) -> Place {
        self.waiting.push_back(name);
        Place::Waiting(TURN)
    }

    /// Its turn was cut short for want of room.
    pub(crate) fn stay(&mut self, name: Name, left: usize) -> Place {
        self.waiting.push_front(name);
        Place::Waiting(left)
    }

    /// Room for `buffers` is there: the next one whose turn it is, if another may be called now.
    pub(crate) fn next(&mut self, buffers: u16, now: Instant) -> Option<Name> {
        self.called.retain(|(_, since)| now.saturating_duration_since(*since) < self.patience);
        let turns = (usize::from(buffers) * self.buffer).div_ceil(TURN);
        if self.called.len() >= turns {
            return None;
        }
        self.waiting.pop_front()
    }

    pub(crate) fn call(&mut self, name: Name, left: usize, now: Instant) -> Place {
        self.called.push((name, now));
        Place::Called(left)
    }

    /// It is no longer there.
    pub(crate) fn leave(&mut self, name: Name, place: Place) {
        match place {
            Place::Outside => {}
            Place::Waiting(_) => self.waiting.retain(|one| *one != name),
            Place::Called(_) => self.called.retain(|(one, _)| *one != name),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.called.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(theirs: u32) -> Name {
        (Key { theirs, ours: 1 }, u64::from(theirs))
    }

    #[test]
    fn as_many_are_called_as_there_is_room_for_in_the_order_in_which_they_came() {
        const BUFFERS: u16 = 64;
        let mut line = Line::default();
        let now = Instant::now();
        (1..=4).for_each(|one| _ = line.join(name(one)));
        assert_eq!(line.next(0, now), None);
        assert_eq!(line.next(1, now), Some(name(1)));
        let one = line.call(name(1), TURN, now);
        assert_eq!(line.next(BUFFERS, now), None, "one is called, and there is room for one");
        assert_eq!(line.next(BUFFERS + 1, now), Some(name(2)));
        line.call(name(2), TURN, now);
        line.leave(name(1), one);
        line.stay(name(1), 5);
        assert_eq!(line.next(2 * BUFFERS, now), Some(name(1)), "it had not enough");
        line.call(name(1), 5, now);
        assert_eq!(line.next(2 * BUFFERS, now), None);
        // They do not come.
        assert_eq!(line.next(BUFFERS, now + PATIENCE), Some(name(3)));
        assert!(line.has_waiting());
    }
}
