//! Which parts of a memory disk hold memory.

use std::ops::Range;

use super::{CHUNK, MemoryDisk, cuts, place};
use crate::{Answer, Extent, PAGE};

/// Extents in an answer.
pub(super) const EXTENTS: usize = 8192;

impl MemoryDisk {
    /// The extents of a range, from its start on.
    pub(super) fn extents(&self, range: &Range<u64>, one: bool, answer: &mut Answer) {
        let most = if one { 1 } else { EXTENTS };
        let mut runs = Runs { extents: &mut answer.extents, most };
        let mut at = range.start;
        for number in self.existing(range) {
            let here = number * CHUNK;
            let part = range.start.max(here)..range.end.min(here.saturating_add(CHUNK));
            if part.start > at && !runs.push(part.start - at, true) {
                return;
            }
            at = part.end;
            let chunks = self.look(number);
            let chunk = chunks.get(&number);
            for part in cuts(part, PAGE as u64) {
                let (_, index, _) = place(part.start);
                let hole = chunk.is_none_or(|chunk| chunk.pages[index].is_none());
                if !runs.push(part.end - part.start, hole) {
                    return;
                }
            }
        }
        if at < range.end {
            runs.push(range.end - at, true);
        }
    }
}

/// Extents being listed, neighbours of a kind made one.
struct Runs<'a> {
    extents: &'a mut Vec<Extent>,
    most: usize,
}

impl Runs<'_> {
    /// False when there is no room for one more.
    fn push(&mut self, len: u64, hole: bool) -> bool {
        let full = self.extents.len() == self.most;
        match self.extents.last_mut() {
            Some(last) if last.hole == hole => last.len += len,
            _ if full => return false,
            _ => self.extents.push(Extent { len, hole, zero: hole }),
        }
        true
    }
}
