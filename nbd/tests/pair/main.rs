//! Both ends against each other: what one writes the other must read, whatever the cuts.

mod negotiation;
mod transmission;

use std::collections::VecDeque;

use nbd::Framing;
use proptest::prelude::*;

/// Bytes on their way, given out in pieces of the lengths that `cuts` has, round and round.
pub(crate) struct Pipe {
    pub(crate) bytes: VecDeque<u8>,
    cuts: Vec<usize>,
    turn: usize,
    /// What the receiver has and has not consumed.
    pub(crate) there: Vec<u8>,
}

impl Pipe {
    pub(crate) fn new(cuts: &[usize]) -> Self {
        Self { bytes: VecDeque::new(), cuts: cuts.to_vec(), turn: 0, there: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &mut Vec<u8>) {
        self.bytes.extend(bytes.drain(..));
    }

    /// One more piece arrives; says whether there was any.
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
