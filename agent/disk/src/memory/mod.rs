//! A disk in memory: sparse, shared by all connections, gone with the agent.
//!
//! `plugin` makes it, `session/` calls it. It never waits for anything but a lock that is held for
//! a page's copy. A page that has been lent to a send is never written to: a write replaces it.
//!
//! Memory is taken a page (`PAGE`) at a time, when something is written, and given back when it
//! is trimmed or zeroed. Where memory runs out the request fails with `Kind::NoMemory`; only the few
//! bytes that keep count of a page are taken without asking.

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

/// Locks. Neighbouring chunks have different ones.
const SHARDS: usize = 64;
/// Pages that a trim or zero may let go on the connection's own task, each for about a microsecond. More of
/// them are left to the executor.
const WALK: u64 = 128;
/// Pages that a zero may fill there, each for some microseconds.
const FILL: u64 = 16;
/// Bytes that `may_trim: false` makes real memory of: as much as the largest write can. Beyond it,
/// what is there stays there and holes stay holes, so that one request cannot take all memory.
const KEEP: u64 = 64 << 20;

/// A disk whose bytes live in this process.
pub struct MemoryDisk {
    size: u64,
    /// Its bytes end with it.
    identity: Identity,
    shards: Box<[Shard; SHARDS]>,
    /// Pages that hold memory.
    pages: AtomicU64,
    /// The chunks that there are, in order.
    index: Index,
    budget: Arc<MemoryBudget>,
}

/// Why a page could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// The kernel has no memory.
    Memory,
    /// The disks have all that they may have.
    Budget,
}

impl From<NoMemory> for Lack {
    fn from(NoMemory: NoMemory) -> Self {
        Self::Memory
    }
}

/// Kept apart so that two locks never share a cache line.
#[repr(align(128))]
struct Shard(RwLock<Chunks>);

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDisk").field("size", &self.size).finish_non_exhaustive()
    }
}

/// Where a byte stands: chunk, page of the chunk, byte of the page.
fn place(at: u64) -> (u64, usize, usize) {
    let within = usize::try_from(at % CHUNK).expect("a chunk's length fits");
    (at / CHUNK, within / PAGE, within % PAGE)
}

impl MemoryDisk {
    /// An empty disk of `size` bytes, at most 2^63 - 1, that takes as much memory as there is.
    pub fn new(size: u64) -> Self {
        Self::within(size, Arc::new(MemoryBudget::new(u64::MAX)))
    }

    /// An empty disk of `size` bytes, at most 2^63 - 1. What exceeds the budget fails with `Kind::NoSpace`.
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

    /// Bytes of memory that the disk's data take.
    pub fn allocated(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) * PAGE as u64
    }

    fn shard(&self, chunk: u64) -> &RwLock<Chunks> {
        &self.shards[usize::try_from(chunk % SHARDS as u64).expect("below SHARDS")].0
    }

    // A panic under the lock leaves whole pages behind, old or new: nothing to be afraid of.
    fn look(&self, chunk: u64) -> RwLockReadGuard<'_, Chunks> {
        self.shard(chunk).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, chunk: u64) -> RwLockWriteGuard<'_, Chunks> {
        self.shard(chunk).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first chunk that there is in `range`, and which part of it lies there.
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

    /// Writes within one page. The lock is held for this page's copy and no longer.
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

    /// Puts a page in its place; the one that was there is for the caller to drop.
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

    /// Takes the whole pages of a write that lie as they do on the disk; copies the rest.
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
                // Bound to a name so that it is dropped when the lock is no longer held.
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

    /// Does `each` to the part of every existing chunk that lies in `range`, until the time slice is over.
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

    /// Pages were let go.
    fn gone(&self, pages: usize) {
        self.pages.fetch_sub(pages as u64, Ordering::Relaxed);
        self.budget.give_back((pages * PAGE) as u64);
    }

    /// Makes `range` zero; memory that is not needed for it goes.
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

    /// Makes `range` zero and keeps its memory; takes memory for its holes, up to `KEEP`.
    /// The end of a longer request is filled too when it goes on in pieces; that changes no byte.
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

    /// Whether zeroing `len` bytes would hold the connection's task for long.
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
            // Nothing outlives the agent, and everything is as near as can be.
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
