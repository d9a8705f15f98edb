//! A disk in memory: sparse, shared by all connections, and lost when the agent ends.
//!
//! The plugin `memory` makes it. It blocks only on locks that are held while a page is copied. A page that is lent to a
//! send is never written to: a write puts a new page in its place.
//!
//! Memory is allocated by pages (`PAGE`) when bytes are written, and freed when they are trimmed or zeroed. Without
//! memory the request fails with `Kind::NoMemory`. Only the few bytes that keep track of a page are allocated without a
//! check.

mod budget;
mod chunk;
mod extents;
mod index;

use std::{
    array, fmt, iter,
    ops::Range,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

pub use budget::MemoryBudget;
use chunk::{CHUNK, Chunk, Chunks, unlent};
use index::Index;

use super::{
    Answer, Data, Disk, DiskError, DiskInfo, Identity, Kind, NoMemory, Op, PAGE, Page, Pages,
    Piece, Progress, Slice, Turn, in_pieces,
    pieces::in_these,
    ranges::{cuts, length},
};

/// The number of locks. Neighbouring chunks have different locks.
const SHARDS: usize = 64;
/// Most pages that a trim or zero frees on the connection's task, each in about a microsecond. A request with more is
/// left to the executor.
const WALK: u64 = 128;
/// Most pages that a zero fills on the connection's task, each in some microseconds.
const FILL: u64 = 16;
/// Most bytes that a zero with `may_trim: false` allocates: as many as the largest write. Beyond that, pages stay and
/// holes stay holes, so that one request cannot take all memory.
const KEEP: u64 = 64 << 20;

/// A disk in the memory of this process.
pub struct MemoryDisk {
    size: u64,
    /// Its identity, which ends with it.
    identity: Identity,
    shards: Box<[Shard; SHARDS]>,
    /// The number of pages.
    pages: AtomicU64,
    /// The index of the chunks.
    index: Index,
    budget: Arc<MemoryBudget>,
}

/// Why a page was not allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// There is no memory.
    Memory,
    /// The budget is used up.
    Budget,
}

impl From<NoMemory> for Lack {
    fn from(NoMemory: NoMemory) -> Self {
        Self::Memory
    }
}

/// Aligned so that two locks never share a cache line.
#[repr(align(128))]
struct Shard(RwLock<Chunks>);

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDisk").field("size", &self.size).finish_non_exhaustive()
    }
}

/// The place of a byte: chunk, page of the chunk, byte of the page.
fn place(at: u64) -> (u64, usize, usize) {
    let within = usize::try_from(at % CHUNK).expect("a chunk's length fits");
    (at / CHUNK, within / PAGE, within % PAGE)
}

impl MemoryDisk {
    /// An empty disk of `size` bytes, at most 2^63 - 1, without a budget.
    pub fn new(size: u64) -> Self {
        Self::within(size, Arc::new(MemoryBudget::new(u64::MAX)))
    }

    /// An empty disk of `size` bytes, at most 2^63 - 1. Writes beyond the budget fail with `Kind::NoSpace`.
    pub fn within(size: u64, budget: Arc<MemoryBudget>) -> Self {
        let shards = array::from_fn(|_| Shard(RwLock::default()));
        Self {
            size,
            identity: Identity::fresh(),
            shards: Box::new(shards),
            pages: AtomicU64::new(0),
            index: Index::default(),
            budget,
        }
    }

    /// Bytes of memory in the disk's pages.
    pub fn allocated(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) * PAGE as u64
    }

    fn shard(&self, chunk: u64) -> &RwLock<Chunks> {
        &self.shards[usize::try_from(chunk % SHARDS as u64).expect("below SHARDS")].0
    }

    // After a panic under the lock each page is whole, old or new, so the lock can be used.
    fn look(&self, chunk: u64) -> RwLockReadGuard<'_, Chunks> {
        self.shard(chunk).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, chunk: u64) -> RwLockWriteGuard<'_, Chunks> {
        self.shard(chunk).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first existing chunk of `range`, and its part within the range.
    fn first(&self, range: &Range<u64>) -> Option<(u64, Range<u64>)> {
        if range.is_empty() {
            return None;
        }
        let number = self.index.first(range.start / CHUNK..range.end.div_ceil(CHUNK))?;
        let here = number * CHUNK;
        Some((number, range.start.max(here)..range.end.min(here.saturating_add(CHUNK))))
    }

    fn read(&self, range: Range<u64>, answer: &mut Answer) {
        for part in cuts(range, CHUNK) {
            let number = part.start / CHUNK;
            let chunks = self.look(number);
            let Some(chunk) = chunks.get(&number) else {
                answer.push_hole(part.end - part.start);
                continue;
            };
            for part in cuts(part, PAGE as u64) {
                let (_, index, start) = place(part.start);
                match &chunk.pages[index] {
                    Some(page) => {
                        let slice = Slice::Lent(Arc::clone(page), start..start + length(&part));
                        answer.pieces.push(Piece::Bytes(slice));
                    }
                    None => answer.push_hole(part.end - part.start),
                }
            }
        }
    }

    /// Writes within one page. The lock is held only while this page is copied.
    fn write(&self, at: u64, data: &[u8]) -> Result<(), Lack> {
        let (number, index, start) = place(at);
        let mut chunks = self.change(number);
        if let Some(slot) = chunks.get_mut(&number).and_then(|chunk| chunk.pages[index].as_mut()) {
            if let Some(page) = Arc::get_mut(slot) {
                page.bytes_mut()[start..start + data.len()].copy_from_slice(data);
            } else {
                let mut page = if data.len() == PAGE { Page::with(0, data) } else { slot.copy() }
                    .ok_or(NoMemory)?;
                page.bytes_mut()[start..start + data.len()].copy_from_slice(data);
                *slot = Arc::new(page);
            }
            return Ok(());
        }
        let page = Page::with(start, data).ok_or(NoMemory)?;
        self.put(&mut chunks, number, index, page).map(drop)
    }

    /// Puts a page in its place, and returns the previous one for the caller to drop.
    fn put(
        &self,
        chunks: &mut Chunks,
        number: u64,
        index: usize,
        page: Page,
    ) -> Result<Option<Arc<Page>>, Lack> {
        chunks.try_reserve(1).map_err(|_| Lack::Memory)?;
        let is_new = chunks.get(&number).is_none_or(|chunk| chunk.pages[index].is_none());
        if is_new && !self.budget.take(PAGE as u64) {
            return Err(Lack::Budget);
        }
        let chunk = chunks.entry(number).or_insert_with(|| {
            self.index.insert(number);
            Chunk::empty()
        });
        let before = chunk.pages[index].replace(Arc::new(page));
        if before.is_none() {
            chunk.used += 1;
            self.pages.fetch_add(1, Ordering::Relaxed);
        }
        Ok(before)
    }

    /// Takes the whole pages of a write that are aligned as on the disk, and copies the rest.
    fn write_pages(&self, at: u64, pages: &mut Pages) -> Result<(), Lack> {
        if pages.first() as u64 != at % PAGE as u64 {
            let mut at = at;
            return pages.slices().try_for_each(|slice| {
                self.write_bytes(at, slice)?;
                at += slice.len() as u64;
                Ok(())
            });
        }
        for (i, part) in cuts(at..at + pages.len() as u64, PAGE as u64).enumerate() {
            if let Some(page) = pages.take_whole(i) {
                let (number, index, _) = place(part.start);
                // Bound to a name so that it is dropped after the lock is released.
                let before = self.put(&mut self.change(number), number, index, page)?;
                drop(before);
            } else if let Some(bytes) = pages.part(i) {
                self.write(part.start, bytes)?;
            }
        }
        Ok(())
    }

    fn write_bytes(&self, at: u64, mut bytes: &[u8]) -> Result<(), Lack> {
        for part in cuts(at..at + bytes.len() as u64, PAGE as u64) {
            let (now, rest) = bytes.split_at(length(&part));
            self.write(part.start, now)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Calls `each` for the part of every existing chunk within `range`, until the time slice is over.
    fn in_existing(
        &self,
        range: &Range<u64>,
        mut each: impl FnMut(u64, Range<u64>) -> Result<(), Lack>,
    ) -> Result<Progress, Lack> {
        let mut at = range.start;
        let parts = iter::from_fn(|| {
            let (_, part) = self.first(&(at..range.end))?;
            at = part.end;
            Some(part)
        });
        in_these(range, parts, |part| each(part.start / CHUNK, part))
    }

    /// Accounts for pages that were freed.
    fn gone(&self, pages: usize) {
        self.pages.fetch_sub(pages as u64, Ordering::Relaxed);
        self.budget.give_back((pages * PAGE) as u64);
    }

    /// Makes `range` zero, and frees the pages that are not needed for it.
    fn free(&self, range: &Range<u64>) -> Result<Progress, Lack> {
        self.in_existing(range, |number, part| {
            let here = number * CHUNK;
            let mut chunks = self.change(number);
            if part.end - part.start == CHUNK.min(self.size - here) {
                let gone = chunks.remove(&number);
                self.index.remove(number);
                drop(chunks);
                if let Some(chunk) = gone {
                    self.gone(chunk.used);
                }
                return Ok(());
            }
            let Some(chunk) = chunks.get_mut(&number) else { return Ok(()) };
            for part in cuts(part, PAGE as u64) {
                let (_, index, start) = place(part.start);
                if chunk.free(index, start..start + length(&part))? {
                    self.gone(1);
                }
            }
            if chunk.used == 0 {
                chunks.remove(&number);
                self.index.remove(number);
            }
            Ok(())
        })
    }

    /// Makes `range` zero, keeps its pages, and allocates pages for its holes, up to `KEEP` bytes. If a longer request
    /// continues in pieces, its end is filled too, which changes no byte.
    fn clear(&self, range: &Range<u64>) -> Result<Progress, Lack> {
        let fill = range.end - range.start <= KEEP;
        if fill {
            return in_pieces(range.clone(), CHUNK, |part| {
                self.clear_chunk(part.start / CHUNK, part, fill)
            });
        }
        self.in_existing(range, |number, part| self.clear_chunk(number, part, fill))
    }

    fn clear_chunk(&self, number: u64, part: Range<u64>, fill: bool) -> Result<(), Lack> {
        for part in cuts(part, PAGE as u64) {
            let (_, index, start) = place(part.start);
            let mut chunks = self.change(number);
            let slot = chunks.get_mut(&number).and_then(|chunk| chunk.pages[index].as_mut());
            if let Some(page) = slot {
                unlent(page)?.bytes_mut()[start..start + length(&part)].fill(0);
            } else if fill {
                let page = Page::zeroed().ok_or(NoMemory)?;
                self.put(&mut chunks, number, index, page)?;
            }
        }
        Ok(())
    }

    /// Whether zeroing `len` bytes would occupy the connection's task for long.
    fn is_long(&self, len: u64) -> bool {
        (len / PAGE as u64).min(self.pages.load(Ordering::Relaxed)) > WALK
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        self.budget.give_back(self.allocated());
    }
}

impl Disk for MemoryDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo { lends: true, ..DiskInfo::plain(self.size, self.identity) }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match op {
            Op::Trim { len, .. } | Op::Zero { len, may_trim: true, .. } if self.is_long(*len) => {
                return Ok(Turn::WouldBlock);
            }
            Op::Zero { len, .. } if *len > FILL * PAGE as u64 => return Ok(Turn::WouldBlock),
            _ => {}
        }
        self.execute(op, answer).map(|_| Turn::Done)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let (verb, (at, len)) = (op.verb(), op.range());
        let range = at..at + len;
        let done = match op {
            Op::Read { .. } => {
                self.read(range, answer);
                Ok(Progress::Done)
            }
            Op::Write { data: Data::Bytes(bytes), .. } => {
                self.write_bytes(at, bytes).map(|()| Progress::Done)
            }
            Op::Write { data: Data::Pages(pages), .. } => {
                self.write_pages(at, pages).map(|()| Progress::Done)
            }
            Op::Trim { .. } | Op::Zero { may_trim: true, .. } => self.free(&range),
            Op::Zero { .. } => self.clear(&range),
            Op::Extents { one, .. } => {
                self.extents(&range, *one, answer);
                Ok(Progress::Done)
            }
            // No byte outlasts the agent, and everything is in memory: nothing to flush or to read ahead.
            Op::Flush | Op::Settle | Op::Cache { .. } => Ok(Progress::Done),
        };
        done.map_err(|lack| {
            let kind = if lack == Lack::Budget { Kind::NoSpace } else { Kind::NoMemory };
            DiskError::new(kind, verb, (at, len))
        })
    }
}

#[cfg(test)]
mod tests;
