//! Both ends against each other: each must understand the other, whatever the cuts.

mod negotiation;
mod transmission;

use std::collections::VecDeque;

use nbd::Framing;
use proptest::prelude::*;

/// Bytes in transit. They arrive in pieces, whose lengths `cuts` gives in rotation.
pub(crate) struct Pipe {
    pub(crate) bytes: VecDeque<u8>,
    cuts: Vec<usize>,
    turn: usize,
    /// Bytes that have arrived and that the receiver has not consumed.
    pub(crate) there: Vec<u8>,
}

impl Pipe {
    pub(crate) fn new(cuts: &[usize]) -> Self {
        Self { bytes: VecDeque::new(), cuts: cuts.to_vec(), turn: 0, there: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &mut Vec<u8>) {
        self.bytes.extend(bytes.drain(..));
    }

    /// Lets one more piece arrive. Returns whether there was one.
    pub(crate) fn arrive(&mut self) -> bool {
        let len = self.cuts[self.turn % self.cuts.len()].min(self.bytes.len());
        self.turn += 1;
        self.there.extend(self.bytes.drain(..len));
        len > 0
    }

    pub(crate) fn consume(&mut self, len: usize) {
        self.there.drain(..len);
    }
}

pub(crate) fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::Simple), Just(Framing::Structured), Just(Framing::Extended)]
}
