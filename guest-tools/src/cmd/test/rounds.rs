//! The steps of a test, in whole blocks: fills, random changes and checks.
//!
//! Some servers fail only with long requests, or at the edges of them. So every length up to the longest
//! occurs among the pieces of a fill or a check, which costs no extra time, and among the random changes.

use std::ops::Range;

use nbd::wire::{CommandFlags, TransmissionFlags};
use nbd_client::{Order, Verb};

use super::{
    super::CommandError,
    drive::{Drive, Under, index},
    model::{Kind, Stroke},
};

/// The longest random request, with a few exceptions, in blocks.
const LONG: u64 = 128;
/// The usual length in a fill or a check, in bytes.
const PIECE: u64 = 256 << 10;
/// How many blocks on either side of a long request are checked.
const BESIDE: usize = 8;
/// The length in bytes that a server with DF must return in one piece.
const WHOLE: u64 = 64 << 10;

/// A change or a read of many blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Read,
    Write,
    Zero,
    Trim,
    Cache,
}

impl Drive<'_> {
    /// Everything that `test --destroy` does.
    pub(super) fn all(&mut self) -> Result<(), CommandError> {
        self.fill(None)?;
        self.check_extents()?;
        self.write_far()?;
        self.check(0)?;
        for round in 1..=3 {
            self.changes()?;
            self.check_extents()?;
            self.flush()?;
            self.cut()?;
            self.check(round)?;
            // The same, with changes in flight.
            self.changes_under_way()?;
            self.cut()?;
            self.check(round + 1)?;
        }
        self.check_far()?;
        self.change_bytes()?;
        let last = self.model.begin(Kind::Data);
        self.fill(Some(last))?;
        self.write_header(last)?;
        self.flush()?;
        self.cut()?;
        self.check(0)
    }

    /// Everything that `test --read-only` does.
    pub(super) fn check_last_run(&mut self, last: u32) -> Result<(), CommandError> {
        let blocks = 0..self.model.blocks();
        let change = (0..last).map(|_| self.model.begin(Kind::Data)).last().unwrap_or_default();
        self.model.answered(Stroke { blocks, change }, true);
        self.check(0)?;
        self.check_extents()
    }

    /// Writes every block, in an order that jumps. Each request is a change of its own, unless they all are
    /// the change `one`.
    fn fill(&mut self, one: Option<u32>) -> Result<(), CommandError> {
        for blocks in self.pieces(0) {
            let change = match one {
                Some(change) => change,
                None => self.model.begin(Kind::Data),
            };
            self.write(Stroke { blocks, change }, false)?;
        }
        self.finish()
    }

    /// Reads and checks every block. `number` shifts the edges of the pieces.
    fn check(&mut self, number: usize) -> Result<(), CommandError> {
        for blocks in self.pieces(number) {
            self.read(blocks)?;
        }
        self.finish()
    }

    /// Sends many random changes, with reads in between.
    fn changes(&mut self) -> Result<(), CommandError> {
        let all = self.amount();
        let mut left = all;
        let mut long = self.long_acts(all / 2);
        while left > 0 {
            if self.below(100) < 3 {
                self.send_flush()?;
            }
            let act = if self.below(16) == 0 { long.pop() } else { None };
            left = left.saturating_sub(match act {
                Some(act) => self.act_at_length(act)?,
                None => self.change()?,
            });
        }
        for act in long {
            self.act_at_length(act)?;
        }
        self.finish()
    }

    /// Like `act_on`, with data on both sides that is checked at once, because a later change could hide
    /// damage to it.
    fn act_at_length(&mut self, (act, len): (Act, u64)) -> Result<u64, CommandError> {
        let whole = self.free_blocks(len + 2 * BESIDE as u64)?;
        let blocks = whole.start + BESIDE..whole.end - BESIDE;
        let beside = [whole.start..blocks.start, blocks.end..whole.end];
        for blocks in beside.clone() {
            let change = self.model.begin(Kind::Data);
            self.write(Stroke { blocks, change }, false)?;
        }
        self.finish()?;
        self.act_there(act, blocks)?;
        self.finish()?;
        beside.into_iter().try_for_each(|blocks| self.read(blocks))?;
        Ok(len)
    }

    /// The same without flushes, so that only FUA makes a change durable. It returns while requests are in
    /// flight.
    fn changes_under_way(&mut self) -> Result<(), CommandError> {
        let under_way = (self.settings.connections * self.settings.requests) as u64;
        let mean = (LONG + 9) / 4;
        let mut left = self.amount() / 4 + 3 * under_way * mean;
        while left > 0 {
            left = left.saturating_sub(self.change()?);
        }
        Ok(())
    }

    /// The number of blocks of all changes together: each block is changed about once.
    fn amount(&self) -> u64 {
        let mean = (LONG + 9) / 4;
        (self.model.blocks() as u64 / 32).clamp(400, 40_000) * mean
    }

    /// One request of each kind for every length above the usual ones, the longest first, with at most
    /// `most` blocks together.
    fn long_acts(&self, most: u64) -> Vec<(Act, u64)> {
        let half = self.model.blocks() as u64 / 2;
        let mut left = most;
        let mut acts = Vec::new();
        for len in lengths(LONG, half.min(self.longest_range() / self.settings.block)) {
            let payload = len <= self.longest();
            for (act, can) in [
                (Act::Zero, self.has(TransmissionFlags::SEND_WRITE_ZEROES)),
                (Act::Write, payload),
                (Act::Read, payload),
                (Act::Trim, self.has(TransmissionFlags::SEND_TRIM)),
            ] {
                if can && len <= left {
                    left -= len;
                    acts.push((act, len));
                }
            }
        }
        acts.reverse();
        acts
    }

    /// Sends one random request. Returns how many blocks it covers.
    fn change(&mut self) -> Result<u64, CommandError> {
        let act = match self.below(100) {
            0..2 if self.has(TransmissionFlags::SEND_CACHE) => Act::Cache,
            0..40 => Act::Read,
            40..50 if self.has(TransmissionFlags::SEND_WRITE_ZEROES) => Act::Zero,
            50..55 if self.has(TransmissionFlags::SEND_TRIM) => Act::Trim,
            _ => Act::Write,
        };
        let long = if self.below(2) == 0 { 8 } else { LONG };
        let most = long.min(self.longest()).min(self.model.blocks() as u64);
        let len = 1 + self.below(most);
        self.act_on(act, len)
    }

    /// Sends a request for a random place. Returns how many blocks it covers.
    fn act_on(&mut self, act: Act, len: u64) -> Result<u64, CommandError> {
        let blocks = self.free_blocks(len)?;
        self.act_there(act, blocks)?;
        Ok(len)
    }

    fn act_there(&mut self, act: Act, blocks: Range<usize>) -> Result<(), CommandError> {
        let fua = self.has(TransmissionFlags::SEND_FUA) && self.below(4) == 0;
        match act {
            Act::Read => self.read(blocks),
            Act::Cache => {
                let (at, len) = self.place(&blocks);
                self.submit(Order::bare(Verb::Cache, at, len), Under::Hint)
            }
            Act::Write => {
                let change = self.model.begin(Kind::Data);
                self.write(Stroke { blocks, change }, fua)
            }
            Act::Zero => {
                let change = self.model.begin(Kind::Zeroes);
                let fast = self.has(TransmissionFlags::SEND_FAST_ZERO) && self.below(4) == 0;
                let mut flags = CommandFlags::empty();
                flags.set(CommandFlags::FUA, fua);
                flags.set(CommandFlags::NO_HOLE, self.below(2) == 0);
                flags.set(CommandFlags::FAST_ZERO, fast);
                self.bare(Verb::Zero(flags), Stroke { blocks, change }, fua)
            }
            Act::Trim => {
                let change = self.model.begin(Kind::Anything);
                self.bare(Verb::Trim { fua }, Stroke { blocks, change }, fua)
            }
        }
    }

    /// Finds this many consecutive blocks at random, with no request in flight for them.
    fn free_blocks(&mut self, len: u64) -> Result<Range<usize>, CommandError> {
        let all = self.model.blocks() as u64;
        loop {
            for _ in 0..8 {
                let first = self.below(all - len + 1);
                let blocks = index(first)..index(first + len);
                if self.model.is_free(&blocks) {
                    return Ok(blocks);
                }
            }
            self.progress()?;
        }
    }

    /// All blocks in pieces, first every second piece and then the others. Most have the usual length; among
    /// them there is one of each longer length. `number` shifts their edges.
    fn pieces(&self, number: usize) -> Vec<Range<usize>> {
        let usual = index((PIECE / self.settings.block).clamp(1, self.longest()));
        let all = self.model.blocks();
        let half = (all as u64 / 2).min(self.longest());
        let mut long = lengths(usual as u64, half);
        let mut from = 0;
        let mut places = Vec::new();
        while from < all {
            let len = match places.len() {
                0 => (usual * (number % 4 + 1)).div_ceil(4),
                n if n % 4 == 1 => long.pop().map_or(usual, index),
                _ => usual,
            };
            let to = from.saturating_add(len).min(all);
            places.push(from..to);
            from = to;
        }
        let (even, odd): (Vec<_>, Vec<_>) =
            places.into_iter().enumerate().partition(|(n, _)| n.is_multiple_of(2));
        even.into_iter().chain(odd).map(|(_, blocks)| blocks).collect()
    }

    /// The most blocks in one read or write.
    fn longest(&self) -> u64 {
        (self.longest_payload() / self.settings.block).max(1)
    }

    fn read(&mut self, blocks: Range<usize>) -> Result<(), CommandError> {
        let (at, len) = self.place(&blocks);
        let whole = len <= WHOLE && self.has(TransmissionFlags::SEND_DF) && self.below(4) == 0;
        let verb = if whole { Verb::ReadWhole } else { Verb::Read };
        let order = Order { verb, ..Order::read(at, len, self.room(len)?) };
        self.submit(order, Under::Read(blocks))
    }

    fn write(&mut self, stroke: Stroke, fua: bool) -> Result<(), CommandError> {
        let (at, len) = self.place(&stroke.blocks);
        let room = self.room(len)?;
        let bytes = self.model.payload(&stroke, room);
        self.submit(Order::write(at, bytes, fua), Under::Change { stroke, fua })
    }

    fn bare(&mut self, verb: Verb, stroke: Stroke, fua: bool) -> Result<(), CommandError> {
        let (at, len) = self.place(&stroke.blocks);
        self.submit(Order::bare(verb, at, len), Under::Change { stroke, fua })
    }
}

/// Lengths above `usual` up to `most`, each twice the one before or one less, and `most` itself.
fn lengths(usual: u64, most: u64) -> Vec<u64> {
    let doubled = (1..).map_while(|n| usual.checked_shl(n).filter(|len| *len > usual));
    let uneven = doubled.zip(0..).map(|(len, n)| len - n % 2);
    let mut all: Vec<_> = uneven.take_while(|len| *len < most).collect();
    if most > usual {
        all.push(most);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_double_up_to_the_longest() {
        assert_eq!(lengths(128, 5000), [256, 511, 1024, 2047, 4096, 5000]);
        assert_eq!(lengths(128, 256), [256]);
        assert_eq!(lengths(128, 129), [129]);
        assert!(lengths(128, 128).is_empty());
        assert_eq!(lengths(512, u64::MAX).last(), Some(&u64::MAX));
    }
}
