//! Which parts of a memory disk hold memory.

use std::ops::Range;

use super::{MemoryDisk, cuts, place};
use crate::{Answer, Extent, PAGE};

/// Extents in an answer.
pub(super) const EXTENTS: usize = 8192;
/// Chunks that one request looks at, each for about a microsecond: it is answered on the connection's own task,
/// whose turn is 500 microseconds. An answer may end before the range that was asked about.
pub(super) const LOOKED_AT: usize = 256;

impl MemoryDisk {
    /// The extents of a range, from its start on, as far as the bounds go.
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
