//! The pages of a part of a memory disk, and the table of these parts.

use std::{collections::HashMap, ops::Range, sync::Arc};

use crate::{NoMemory, PAGE, Page, zeroes::is_zero};

/// The number of pages of a chunk, which have one lock.
pub(super) const CHUNK_PAGES: usize = 128;
/// Bytes of the disk in a chunk: 4 MiB.
pub(super) const CHUNK: u64 = (CHUNK_PAGES * PAGE) as u64;

/// The chunks that exist, by number. Clients choose the numbers, so the hash is keyed; it takes a few of the forty
/// nanoseconds of a read.
pub(super) type Chunks = HashMap<u64, Box<Chunk>>;

/// `CHUNK` bytes of the disk, with at least one page.
pub(super) struct Chunk {
    pub(super) pages: [Option<Arc<Page>>; CHUNK_PAGES],
    /// The number of pages.
    pub(super) used: usize,
}

impl Chunk {
    pub(super) fn empty() -> Box<Self> {
        Box::new(Self { pages: [const { None }; CHUNK_PAGES], used: 0 })
    }

    /// Makes a part of a page zero. Returns whether the page was freed.
    pub(super) fn free(&mut self, index: usize, range: Range<usize>) -> Result<bool, NoMemory> {
        let Some(page) = &mut self.pages[index] else { return Ok(false) };
        let bytes = page.bytes();
        if is_zero(&bytes[..range.start]) && is_zero(&bytes[range.end..]) {
            self.pages[index] = None;
            self.used -= 1;
            return Ok(true);
        }
        unlent(page)?.bytes_mut()[range].fill(0);
        Ok(false)
    }
}

/// The page to write to: the page itself, or a copy in its place if a send still uses the page.
pub(super) fn unlent(page: &mut Arc<Page>) -> Result<&mut Page, NoMemory> {
    if Arc::get_mut(page).is_none() {
        *page = Arc::new(page.copy().ok_or(NoMemory)?);
    }
    Ok(Arc::get_mut(page).expect("nobody can have got the page under the lock"))
}
