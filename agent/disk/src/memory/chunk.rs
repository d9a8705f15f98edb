//! The pages of a part of a memory disk, and the table that finds them.

use std::{collections::HashMap, ops::Range, sync::Arc};

use crate::{NoMemory, PAGE, Page, zeroes::is_zero};

/// Pages that are kept, and locked, together.
pub(super) const CHUNK_PAGES: usize = 128;
/// Bytes of the disk that a chunk stands for: 4 MiB.
pub(super) const CHUNK: u64 = (CHUNK_PAGES * PAGE) as u64;

/// The chunks that there are, by number. A client chooses the numbers, so the hash is a keyed one;
/// it costs a few nanoseconds of a read's forty.
pub(super) type Chunks = HashMap<u64, Box<Chunk>>;

/// `CHUNK` bytes of the disk, of which at least one page is there.
pub(super) struct Chunk {
    pub(super) pages: [Option<Arc<Page>>; CHUNK_PAGES],
    /// How many pages there are.
    pub(super) used: usize,
}

impl Chunk {
    pub(super) fn empty() -> Box<Self> {
        Box::new(Self { pages: [const { None }; CHUNK_PAGES], used: 0 })
    }

    /// Makes part of a page zero; says whether that let the page go.
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

/// The page to write to: itself, or a copy in its place if a send still has it.
pub(super) fn unlent(page: &mut Arc<Page>) -> Result<&mut Page, NoMemory> {
    if Arc::get_mut(page).is_none() {
        *page = Arc::new(page.copy().ok_or(NoMemory)?);
    }
    Ok(Arc::get_mut(page).expect("nobody can have got the page under the lock"))
}
