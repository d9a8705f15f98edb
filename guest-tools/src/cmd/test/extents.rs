//! Checks what a server reports about holes. A program that copies a disk does not read where a hole is
//! reported, so data reported as zeroes is as lost as data that was not written.

use nbd_client::{Done, Order, Verb};

use super::{super::CommandError, drive::Drive};

/// How many random parts to ask for, besides the whole range.
const PARTS: u32 = 24;
/// The most requests for the whole range. A server that reports little at a time is checked far enough with
/// these.
const MOST: u32 = 4096;

impl Drive<'_> {
    /// Asks for allocation and checks it. No request is in flight before.
    pub(super) fn check_extents(&mut self) -> Result<(), CommandError> {
        if !self.has_extents() {
            return Ok(());
        }
        let unit = self.settings.unit;
        let (start, len) = self.place(&(0..self.model.blocks()));
        let end = start + len;
        let mut at = start;
        for _ in 0..MOST {
            if at >= end {
                break;
            }
            let len = (end - at).min(self.longest_range());
            self.ask(Order::bare(Verb::Extents { one: false }, at, len))?;
            for done in self.collect()? {
                self.judge_extents(&done)?;
                let known = done.extents.iter().map(|extent| extent.len).sum::<u64>();
                at += (known - known % unit).max(unit);
            }
        }
        for n in 0..PARTS {
            let shift = self.below(u64::from(u64::BITS - (len / unit).leading_zeros()));
            let part = 1 + self.below((len / unit) >> shift);
            let from = self.below(len / unit - part + 1);
            let (at, len) = (start + from * unit, (part * unit).min(self.longest_range()));
            self.ask(Order::bare(Verb::Extents { one: n % 4 == 0 }, at, len))?;
        }
        let all = self.collect()?;
        all.iter().try_for_each(|done| self.judge_extents(done))
    }

    fn judge_extents(&self, done: &Done) -> Result<(), CommandError> {
        let wrong = done.extents.iter().find_map(|extent| self.model.judge_extent(extent));
        wrong.map_or(Ok(()), |wrong| Err(wrong.into()))
    }
}
