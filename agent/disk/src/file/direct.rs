//! O_DIRECT (`cache=none`): the kernel accepts only whole blocks in aligned memory. This module converts any range to
//! that form.
//!
//! A write of a part of a block reads the block, changes it and writes it back, and no other write may come between. If
//! the file does not end with a whole block, its last part is read and written through the page cache only, so that no
//! block is accessed in both ways.

use std::{fs::File, io, ops::Range};

use super::{Ability, edges::Edges, read_buffered, read_exactly, write_buffered};
use crate::{
    Answer,
    ranges::{cuts, length, whole},
    room,
    sys::file::Until,
};

/// Alignment of memory, in bytes, that every device accepts.
const MEMORY: usize = 4096;
/// Most bytes that are copied for one write.
const BOUNCE: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Direct {
    /// The size of a block in bytes: a power of two, at most `BOUNCE`.
    pub(super) block: u64,
    /// The start of the last, shorter block, and the file opened without O_DIRECT.
    pub(super) tail: Option<(u64, File)>,
}

/// Bytes in order, which are taken piece by piece.
struct Source<'a> {
    slices: &'a [&'a [u8]],
    taken: usize,
}

impl Source<'_> {
    fn append_to(&mut self, bytes: &mut Vec<u8>, mut len: usize) {
        while let Some(slice) = self.slices.first().filter(|_| len > 0) {
            let rest = &slice[self.taken..];
            let n = rest.len().min(len);
            bytes.extend_from_slice(&rest[..n]);
            len -= n;
            self.taken += n;
            if self.taken == slice.len() {
                self.slices = &self.slices[1..];
                self.taken = 0;
            }
        }
    }
}

/// Room for `len` bytes from an aligned address on. The bytes before that address are skipped.
pub(super) fn aligned(len: usize) -> io::Result<(Vec<u8>, usize)> {
    let mut bytes = room(len + MEMORY)?;
    let skip = bytes.as_ptr().align_offset(MEMORY);
    bytes.resize(skip, 0);
    Ok((bytes, skip))
}

impl Direct {
    /// The part of `range` that is read and written directly, and the part that is not.
    fn split(&self, range: &Range<u64>) -> (Range<u64>, Range<u64>) {
        let tail = self.tail.as_ref().map_or(u64::MAX, |(start, _)| *start);
        let middle = tail.clamp(range.start, range.end);
        (range.start..middle, middle..range.end)
    }

    /// Whether a part of the range is not read and written directly.
    pub(super) fn has_tail_in(&self, range: &Range<u64>) -> bool {
        self.tail.as_ref().is_some_and(|(start, _)| *start < range.end)
    }

    /// The blocks that a range overlaps.
    pub(super) fn around(&self, range: &Range<u64>) -> Range<u64> {
        range.start / self.block * self.block..range.end.next_multiple_of(self.block)
    }

    /// Whether the range consists of whole blocks.
    pub(super) fn is_whole(&self, range: &Range<u64>) -> bool {
        self.around(range) == *range
    }

    pub(super) fn read(
        &self,
        file: &File,
        range: Range<u64>,
        answer: &mut Answer,
    ) -> io::Result<()> {
        let (direct, rest) = self.split(&range);
        if !direct.is_empty() {
            let blocks = self.around(&direct);
            let (mut bytes, skip) = aligned(length(&blocks))?;
            read_exactly(file, &blocks, &mut bytes)?;
            bytes.truncate(bytes.len() - length(&(direct.end..blocks.end)));
            answer.push_scanned(direct.start, bytes, skip + length(&(blocks.start..direct.start)));
        }
        match &self.tail {
            Some((_, tail)) if !rest.is_empty() => read_buffered(tail, rest, answer),
            _ => Ok(()),
        }
    }

    /// As `write_buffered`; `edges`: `Shared::edges`.
    pub(super) fn write(
        &self,
        file: &File,
        edges: &Edges,
        at: u64,
        slices: &[&[u8]],
        until: Until,
        durable: &Ability,
    ) -> io::Result<bool> {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        let (direct, rest) = self.split(&(at..at + len as u64));
        let mut source = Source { slices, taken: 0 };
        let mut all_durable = until == Until::Durable;
        let [before, middle, after] = whole(&direct, self.block);
        for part in
            cuts(before, self.block).chain(cuts(middle, BOUNCE)).chain(cuts(after, self.block))
        {
            let blocks = self.around(&part);
            let (mut bytes, skip) = aligned(length(&blocks))?;
            all_durable &= self.between_writes(edges, &part, || {
                if part == blocks {
                    source.append_to(&mut bytes, length(&part));
                } else {
                    read_exactly(file, &blocks, &mut bytes)?;
                    let mut new = room(length(&part))?;
                    source.append_to(&mut new, length(&part));
                    let start = skip + length(&(blocks.start..part.start));
                    bytes[start..start + new.len()].copy_from_slice(&new);
                }
                write_buffered(file, blocks.start, &[&bytes[skip..]], until, durable)
            })?;
        }
        if let (Some((_, tail)), false) = (&self.tail, rest.is_empty()) {
            let mut bytes = room(length(&rest))?;
            source.append_to(&mut bytes, length(&rest));
            // The last part may belong to a whole block for connections that opened the file after it grew.
            let _together = edges.together();
            all_durable &= write_buffered(tail, rest.start, &[&bytes], until, durable)?;
        }
        Ok(all_durable)
    }

    /// Executes `change` while no other request changes a part of a block. If `range` is not of whole blocks, no other
    /// request changes anything meanwhile.
    pub(super) fn between_writes<T>(
        &self,
        edges: &Edges,
        range: &Range<u64>,
        change: impl FnOnce() -> T,
    ) -> T {
        if self.is_whole(range) {
            let _together = edges.together();
            change()
        } else {
            let _alone = edges.alone();
            change()
        }
    }
}
