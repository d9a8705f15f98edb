//! What the disk must hold: for each block the last change, and the last change that a flush or FUA
//! has made durable. No I/O.

use std::{collections::TryReserveError, ops::Range};

use nbd::wire::ExtentFlags;
use nbd_client::Extent;

use super::block::{self, LINE};

/// The content after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The block of this generation, which is the change's number.
    Data,
    Zeroes,
    /// Anything, because the block was trimmed or its content is unknown.
    Anything,
}

/// A range of blocks and the change that was made to them.
#[derive(Debug, Clone)]
pub(super) struct Stroke {
    pub(super) blocks: Range<usize>,
    pub(super) change: u32,
}

/// A block that differs from what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// The offset in the export of the first wrong byte.
    pub(super) at: u64,
    pub(super) found: String,
    pub(super) due: String,
}

#[derive(Debug)]
pub(super) struct Model {
    run: u64,
    /// The offset of the first block in the export, in bytes.
    start: u64,
    /// The size of a block, in bytes.
    pub(super) size: usize,
    /// By the number of the change. The first one means that nothing is known.
    changes: Vec<Kind>,
    state: Vec<u32>,
    durable: Vec<u32>,
    /// Changes that were answered, and are not covered by a flush that was sent.
    unflushed: Vec<Stroke>,
    busy: Vec<bool>,
}

impl Model {
    /// Allocates nine bytes per block. It is an error if there is not enough memory.
    pub(super) fn new(
        run: u64,
        start: u64,
        size: usize,
        blocks: usize,
    ) -> Result<Self, TryReserveError> {
        let (state, durable) = (filled(blocks, 0)?, filled(blocks, 0)?);
        let (changes, unflushed, busy) = (vec![Kind::Anything], Vec::new(), filled(blocks, false)?);
        Ok(Self { run, start, size, changes, state, durable, unflushed, busy })
    }

    pub(super) fn blocks(&self) -> usize {
        self.state.len()
    }

    /// The offset of a block in the export.
    pub(super) fn at(&self, block: usize) -> u64 {
        self.start + (block * self.size) as u64
    }

    /// Whether no request is in flight for these blocks.
    pub(super) fn is_free(&self, blocks: &Range<usize>) -> bool {
        self.busy.get(blocks.clone()).is_some_and(|busy| !busy.contains(&true))
    }

    pub(super) fn occupy(&mut self, blocks: &Range<usize>, busy: bool) {
        if let Some(places) = self.busy.get_mut(blocks.clone()) {
            places.fill(busy);
        }
    }

    /// Registers a change and returns its number.
    pub(super) fn begin(&mut self, kind: Kind) -> u32 {
        self.changes.push(kind);
        u32::try_from(self.changes.len() - 1).unwrap_or(u32::MAX)
    }

    /// The bytes that a change writes.
    pub(super) fn payload(&self, stroke: &Stroke, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(stroke.blocks.len() * self.size, 0);
        block::fill(&mut bytes, self.run, self.at(stroke.blocks.start), stroke.change.into());
        bytes
    }

    /// Applies a change that the server has answered.
    pub(super) fn answered(&mut self, stroke: Stroke, fua: bool) {
        for place in self.state.get_mut(stroke.blocks.clone()).into_iter().flatten() {
            *place = stroke.change;
        }
        if fua {
            self.made_durable(&stroke);
        } else {
            self.unflushed.push(stroke);
        }
    }

    /// Takes the changes that a flush covers which is sent now.
    pub(super) fn covered(&mut self) -> Vec<Stroke> {
        std::mem::take(&mut self.unflushed)
    }

    pub(super) fn made_durable(&mut self, stroke: &Stroke) {
        for place in self.durable.get_mut(stroke.blocks.clone()).into_iter().flatten() {
            *place = stroke.change.max(*place);
        }
    }

    /// Called when the connections were cut. The content is unknown where a change was in flight or
    /// was answered and not flushed. Returns how many blocks that are.
    pub(super) fn cut(&mut self, under_way: &[Range<usize>]) -> usize {
        for blocks in under_way {
            self.occupy(blocks, false);
            for place in self.state.get_mut(blocks.clone()).into_iter().flatten() {
                *place = 0;
            }
            for place in self.durable.get_mut(blocks.clone()).into_iter().flatten() {
                *place = 0;
            }
        }
        self.unflushed.clear();
        let mut unknown = 0;
        for (state, durable) in self.state.iter_mut().zip(&self.durable) {
            if state != durable {
                *state = 0;
                unknown += 1;
            }
        }
        unknown
    }

    /// Compares the content of some blocks with what is expected.
    pub(super) fn judge(&self, blocks: &Range<usize>, bytes: &[u8]) -> Option<Wrong> {
        blocks.clone().zip(bytes.chunks_exact(self.size)).find_map(|(block, bytes)| {
            let change = self.state.get(block).copied().unwrap_or_default();
            let (generation, due) = match self.changes.get(change as usize) {
                Some(Kind::Data) => (change.into(), format!("generation {change}")),
                Some(Kind::Zeroes) => (0, "zeroes".to_owned()),
                _ => return None,
            };
            let at = self.at(block);
            let first = block::first_wrong(bytes, self.run, at, generation)?;
            let flushed = self.durable.get(block) == Some(&change);
            let settled = if flushed { ", answered and made durable" } else { ", answered" };
            let found = block::told(bytes, self.run, at);
            Some(Wrong { at: at + first as u64, found, due: format!("{due}{settled}") })
        })
    }

    /// Drops what is known of these blocks, because another program changes them.
    pub(super) fn forget(&mut self, blocks: &Range<usize>) {
        for places in [&mut self.state, &mut self.durable] {
            places.get_mut(blocks.clone()).into_iter().flatten().for_each(|place| *place = 0);
        }
    }

    /// Compares an extent that reads as zeroes with what is expected.
    pub(super) fn judge_extent(&self, extent: &Extent) -> Option<Wrong> {
        if !extent.flags.contains(ExtentFlags::ZERO) {
            return None;
        }
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let size = self.size as u64;
        let (from, to) = (extent.at, extent.at.saturating_add(extent.len));
        // No line of a block is all zeroes, though parts of a line may be.
        let first = from.saturating_sub(self.start).next_multiple_of(LINE as u64);
        let end = to.saturating_sub(self.start) / LINE as u64 * LINE as u64;
        let blocks = index(first / size)..index(end.div_ceil(size)).min(self.blocks());
        let block = blocks.filter(|_| first < end).find(|block| {
            let change = self.state.get(*block).copied().unwrap_or_default();
            matches!(self.changes.get(change as usize), Some(Kind::Data))
        })?;
        let at = self.at(block).max(self.start + first);
        let change = self.state.get(block).copied().unwrap_or_default();
        Some(Wrong {
            at,
            found: format!("in an extent of zeroes, {} bytes at {}", extent.len, extent.at),
            due: format!("generation {change}, answered"),
        })
    }
}

fn filled<T: Copy>(len: usize, with: T) -> Result<Vec<T>, TryReserveError> {
    let mut all = Vec::new();
    all.try_reserve_exact(len)?;
    all.resize(len, with);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushed_changes_must_be_there_and_others_may_be() {
        let mut model = Model::new(1, 4096, 512, 10).unwrap();
        let write = |model: &mut Model, blocks: Range<usize>, fua| {
            let stroke = Stroke { blocks, change: model.begin(Kind::Data) };
            let bytes = model.payload(&stroke, Vec::new());
            model.answered(stroke, fua);
            bytes
        };
        let first = write(&mut model, 0..4, false);
        assert_eq!(model.judge(&(0..4), &first), None);
        let flushed = model.covered();
        let second = write(&mut model, 2..4, false);
        for stroke in &flushed {
            model.made_durable(stroke);
        }
        let wrong = model.judge(&(0..4), &first).unwrap();
        assert_eq!(wrong.at, 4096 + 2 * 512 + 31, "{wrong:?}");
        assert!(
            wrong.found == "generation 1" && wrong.due.starts_with("generation 2"),
            "{wrong:?}"
        );
        write(&mut model, 5..6, true);
        assert_eq!(model.cut(std::slice::from_ref(&(7..8))), 2);
        // Neither of the two is wrong now. The first two blocks and the one with FUA are still
        // required.
        assert_eq!(model.judge(&(2..4), &second), None);
        assert_eq!(model.judge(&(2..4), &first[1024..]), None);
        assert!(model.judge(&(0..2), &vec![0; 1024]).is_some());
        assert!(model.judge(&(5..6), &vec![0; 512]).is_some());
    }

    #[test]
    fn data_that_is_said_to_be_zeroes_is_wrong() {
        let mut model = Model::new(1, 4096, 512, 10).unwrap();
        for (blocks, kind) in [(2..4, Kind::Data), (4..6, Kind::Zeroes), (6..7, Kind::Anything)] {
            let stroke = Stroke { blocks, change: model.begin(kind) };
            model.answered(stroke, false);
        }
        let wrong = |at, len, flags| {
            let flags = ExtentFlags::from_bits_retain(flags);
            model.judge_extent(&Extent { at, len, flags }).map(|wrong| wrong.at)
        };
        // All of it as data, or as a hole that may hold anything.
        assert_eq!((wrong(0, 1 << 20, 0), wrong(0, 1 << 20, 1)), (None, None));
        assert_eq!(wrong(0, 1 << 20, 2), Some(4096 + 1024));
        assert_eq!(wrong(4096, 1024, 3), None);
        // A part of a line proves nothing.
        assert_eq!(wrong(4096, 1024 + 63, 3), None);
        assert_eq!(wrong(4096, 1024 + 64, 3), Some(4096 + 1024));
        assert_eq!(wrong(4096 + 1025, 126, 3), None);
        assert_eq!(wrong(4096 + 1025, 127, 3), Some(4096 + 1088));
        assert_eq!(wrong(4096 + 2047, 1 << 20, 3), None);
        assert_eq!(wrong(4096 + 2048, 1 << 20, 3), None);
    }
}
