//! The extents of a memory disk: which parts have pages.

use std::ops::Range;

use super::{MemoryDisk, cuts, place};
use crate::{Answer, Extent, PAGE};

/// Most extents in an answer.
pub(super) const EXTENTS: usize = 8192;
/// Most chunks that one request examines, each in about a microsecond: the request runs on the connection's task, whose
/// turn is 500 microseconds. An answer may cover less than the requested range.
pub(super) const LOOKED_AT: usize = 256;

impl MemoryDisk {
    /// The extents of a range, from its start on, within the bounds above.
    pub(super) fn extents(&self, range: &Range<u64>, one: bool, answer: &mut Answer) {
        let most = if one { 1 } else { EXTENTS };
        let mut runs = Runs { extents: &mut answer.extents, most };
        let mut at = range.start;
        let mut looked_at = 0;
        while let Some((number, part)) = self.first(&(at..range.end)) {
            if looked_at == LOOKED_AT {
                return;
            }
            looked_at += 1;
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

/// A list of extents, in which neighbours of the same kind are merged.
struct Runs<'a> {
    extents: &'a mut Vec<Extent>,
    most: usize,
}

impl Runs<'_> {
    /// Adds an extent. Returns false if there is no room for it.
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
