//! Received bytes. Between two turns a client holds only what is left of an incomplete message: the clients of a
//! thread share one buffer.

use std::{cell::Cell, mem};

use nbd::transmit::client::Client as Machine;

/// The most bytes received in one call.
const RECEIVE: usize = 256 << 10;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The bytes that are received and not consumed.
#[derive(Debug)]
pub(super) struct Input {
    /// Those of an incomplete message, between two turns.
    left: Vec<u8>,
    /// During a turn: they are `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) const fn new(received: Vec<u8>) -> Self {
        Self { left: received, buffer: Vec::new(), start: 0, end: 0 }
    }

    /// Begins a turn.
    pub(super) fn open(&mut self) {
        self.buffer = SPARE.take();
        let len = RECEIVE.max(self.left.len() + Machine::INPUT);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        (self.start, self.end) = (0, self.left.len());
        if let Some(place) = self.buffer.get_mut(..self.end) {
            place.copy_from_slice(&self.left);
        }
        self.left.clear();
    }

    /// Ends a turn.
    pub(super) fn close(&mut self) {
        let mut buffer = mem::take(&mut self.buffer);
        let there = buffer.get(self.start..self.end).unwrap_or_default();
        if there.is_empty() {
            self.left = Vec::new();
        } else {
            self.left.extend_from_slice(there);
        }
        buffer.truncate(RECEIVE);
        SPARE.set(buffer);
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Consumes bytes from the front.
    pub(super) const fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// The place for more, so that there are at most `most` bytes.
    pub(super) fn room(&mut self, most: usize) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let most = most.min(self.buffer.len());
        self.buffer.get_mut(self.end..most).unwrap_or_default()
    }

    /// Bytes were put into the room.
    pub(super) const fn received(&mut self, bytes: usize) {
        self.end += bytes;
    }
}
