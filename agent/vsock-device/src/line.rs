//! The order in which connections send when the guest provides fewer receive buffers than they need: first
//! come, first served, one turn each.
//!
//! A connection that finds no buffer joins the end of the line. When the guest provides buffers, the first
//! connections are called, as many as the buffers suffice for. Only connections that were called send meanwhile. After
//! its turn a connection joins the end again. If the buffers did not suffice for the whole turn, the connection stays
//! in front with the rest of the turn.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::key::Key;

/// Bytes of a turn: 256 KiB are one large reply.
pub(crate) const TURN: usize = 256 * 1024;
/// A connection that was called and has not sent within this time is passed over.
pub(crate) const PATIENCE: Duration = Duration::from_millis(5);

/// A connection: its ports, and the number that distinguishes it from an earlier one between the same ports.
pub(crate) type ConnectionId = (Key, u64);

/// The place of a connection in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// Not in the line.
    Outside,
    /// Waits for its turn, which has this many bytes.
    Waiting(usize),
    /// Has its turn, of this many bytes.
    Called(usize),
}

/// The connections that wait, and those whose turn it is.
#[derive(Debug)]
pub(crate) struct Line {
    waiting: VecDeque<ConnectionId>,
    called: Vec<(ConnectionId, Instant)>,
    /// Bytes that fit into one of the guest's buffers, as seen last.
    buffer: usize,
    patience: Duration,
}

impl Default for Line {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), called: Vec::new(), buffer: 4096, patience: PATIENCE }
    }
}

impl Line {
    /// Whether no connection waits and none was called.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.called.is_empty()
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Notes how many bytes fit into one of the guest's buffers.
    pub(crate) fn measure(&mut self, bytes: usize) {
        self.buffer = bytes.clamp(1, TURN);
    }

    #[cfg(test)]
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    pub(crate) fn join(&mut self, id: ConnectionId) -> Position {
        self.waiting.push_back(id);
        Position::Waiting(TURN)
    }

    /// Puts a connection in front whose turn was cut short because buffers were missing.
    pub(crate) fn stay(&mut self, id: ConnectionId, left: usize) -> Position {
        self.waiting.push_front(id);
        Position::Waiting(left)
    }

    /// The next connection to call, if `buffers` suffice for one more turn in addition to those of the connections
    /// that were called.
    pub(crate) fn next(&mut self, buffers: u16, now: Instant) -> Option<ConnectionId> {
        self.called.retain(|(_, since)| now.saturating_duration_since(*since) < self.patience);
        let turns = (usize::from(buffers) * self.buffer).div_ceil(TURN);
        if self.called.len() >= turns {
            return None;
        }
        self.waiting.pop_front()
    }

    pub(crate) fn call(&mut self, id: ConnectionId, left: usize, now: Instant) -> Position {
        self.called.push((id, now));
        Position::Called(left)
    }

    /// Removes a connection.
    pub(crate) fn leave(&mut self, id: ConnectionId, position: Position) {
        match position {
            Position::Outside => {}
            Position::Waiting(_) => self.waiting.retain(|one| *one != id),
            Position::Called(_) => self.called.retain(|(one, _)| *one != id),
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

    fn id(guest_port: u32) -> ConnectionId {
        (Key { guest_port, host_port: 1 }, u64::from(guest_port))
    }

    #[test]
    fn connections_are_called_in_order_as_many_as_the_buffers_suffice_for() {
        const BUFFERS: u16 = 64;
        let mut line = Line::default();
        let now = Instant::now();
        (1..=4).for_each(|one| _ = line.join(id(one)));
        assert_eq!(line.next(0, now), None);
        assert_eq!(line.next(1, now), Some(id(1)));
        let one = line.call(id(1), TURN, now);
        assert_eq!(line.next(BUFFERS, now), None, "one was called, and there is room for one");
        assert_eq!(line.next(BUFFERS + 1, now), Some(id(2)));
        line.call(id(2), TURN, now);
        line.leave(id(1), one);
        line.stay(id(1), 5);
        assert_eq!(line.next(2 * BUFFERS, now), Some(id(1)), "its turn was cut short");
        line.call(id(1), 5, now);
        assert_eq!(line.next(2 * BUFFERS, now), None);
        // The connections that were called have not sent.
        assert_eq!(line.next(BUFFERS, now + PATIENCE), Some(id(3)));
        assert!(line.has_waiting());
    }
}
