//! Memory for pages: blocks of one size out of slabs that the kernel can back with huge pages.
//!
//! `page` takes blocks and drops them. The general allocator is not enough: it aborts when there is no memory, and does
//! not return freed memory between other allocations to the kernel. Here freed blocks go back soon, whatever is next to
//! them; only address space is kept.

use std::{
    collections::BTreeSet,
    fmt,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 32 * 1024;
/// Blocks of a slab: as many as a word has bits, together a huge page.
const BLOCKS: usize = 64;
const SLAB: usize = BLOCKS * BLOCK;
/// Most freed blocks that keep their memory for reuse: 8 MiB. With one more, the memory of all of them goes back to the
/// kernel.
const KEPT: u32 = 256;

static POOL: Mutex<Pool> = Mutex::new(Pool { slabs: Vec::new(), free: BTreeSet::new(), stale: 0 });

/// The slabs and their free blocks.
struct Pool {
    /// The slabs. They are never removed: a slab without used blocks is only an address range.
    slabs: Vec<Slab>,
    /// Slabs with free blocks. The first slabs are filled first, so that the last ones become empty.
    free: BTreeSet<u32>,
    /// The number of free blocks with memory.
    stale: u32,
}

/// A slab, with a bit for each block. A block whose bit is in neither word is in use.
struct Slab {
    start: NonNull<u8>,
    /// Free, without memory, zero when touched.
    clean: u64,
    /// Free, with memory and what the last owner left in it.
    stale: u64,
}

// SAFETY: the pointer is the address of memory that belongs to the pool; it is not bound to a thread.
unsafe impl Send for Slab {}

/// `BLOCK` bytes, aligned to `BLOCK`. When it is dropped, it goes back to the pool.
pub(crate) struct Block {
    bytes: NonNull<[u8; BLOCK]>,
    slab: u32,
}

// SAFETY: a block is the only owner of its bytes, as a Box is.
unsafe impl Send for Block {}
// SAFETY: as for Send; shared, it gives out shared references only.
unsafe impl Sync for Block {}

/// The content of a block that was just taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Zeroes,
    /// Bytes of an earlier owner.
    Stale,
}

fn pool() -> MutexGuard<'static, Pool> {
    // The code of the pool does not panic.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    /// Takes a block. `None` if there is no memory.
    pub(crate) fn take() -> Option<(Self, Content)> {
        let mut pool = pool();
        let number = match pool.free.first() {
            Some(&number) => number,
            None => pool.add()?,
        };
        let slab = &mut pool.slabs[number as usize];
        let content = if slab.stale == 0 { Content::Zeroes } else { Content::Stale };
        let bits = if slab.stale == 0 { &mut slab.clean } else { &mut slab.stale };
        let index = bits.trailing_zeros() as usize;
        *bits &= *bits - 1;
        // SAFETY: index < BLOCKS, so the block lies in the slab; it was free and now belongs to the caller alone.
        let bytes = unsafe { slab.start.add(index * BLOCK) }.cast();
        let full = slab.clean | slab.stale == 0;
        pool.stale -= u32::from(content == Content::Stale);
        if full {
            pool.free.remove(&number);
        }
        Some((Self { bytes, slab: number }, content))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // Slabs are aligned to their size.
        let index = self.bytes.addr().get() % SLAB / BLOCK;
        let mut pool = pool();
        pool.slabs[self.slab as usize].stale |= 1 << index;
        pool.free.insert(self.slab);
        pool.stale += 1;
        if pool.stale > KEPT {
            let stale = pool.take_stale();
            // The lock is released during the system calls.
            drop(pool);
            give_back(stale);
        }
    }
}

impl Deref for Block {
    type Target = [u8; BLOCK];

    fn deref(&self) -> &[u8; BLOCK] {
        // SAFETY: mapped for as long as the pool, which is for ever; initialised, for the kernel
        // gives zeroes; nothing else owns the block, and &self keeps mutable references away.
        unsafe { self.bytes.as_ref() }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8; BLOCK] {
        // SAFETY: as for `deref`, with &mut self keeping all other references away.
        unsafe { self.bytes.as_mut() }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Block")
    }
}

impl Pool {
    /// Maps one more slab.
    fn add(&mut self) -> Option<u32> {
        let number = u32::try_from(self.slabs.len()).ok()?;
        self.slabs.try_reserve(1).ok()?;
        self.slabs.push(Slab { start: map()?, clean: u64::MAX, stale: 0 });
        self.free.insert(number);
        Some(number)
    }

    /// Takes all free blocks with memory: the slab, its start, and the bits of the blocks.
    fn take_stale(&mut self) -> Vec<(u32, NonNull<u8>, u64)> {
        self.stale = 0;
        let mut taken = Vec::new();
        let (slabs, free) = (&mut self.slabs, &mut self.free);
        free.retain(|&number| {
            let slab = &mut slabs[number as usize];
            if slab.stale != 0 {
                taken.push((number, slab.start, std::mem::take(&mut slab.stale)));
            }
            slab.clean != 0
        });
        taken
    }
}

/// Returns the memory of blocks that were taken from the pool to the kernel, and the blocks to the pool.
fn give_back(blocks: Vec<(u32, NonNull<u8>, u64)>) {
    for (number, start, bits) in blocks {
        let mut clean = 0;
        let mut rest = bits;
        while rest != 0 {
            let first = rest.trailing_zeros();
            let count = (rest >> first).trailing_ones();
            let run = (u64::MAX >> (64 - count)) << first;
            rest &= !run;
            // SAFETY: the blocks lie in the slab and are in use by nothing: they are in neither word of the slab.
            let (address, len) =
                unsafe { (start.add(first as usize * BLOCK), count as usize * BLOCK) };
            // SAFETY: private anonymous memory of this pool without references to it; it reads as
            // zeroes afterwards.
            if unsafe { libc::madvise(address.as_ptr().cast(), len, libc::MADV_DONTNEED) } == 0 {
                clean |= run;
            }
        }
        let mut pool = pool();
        let slab = &mut pool.slabs[number as usize];
        slab.clean |= clean;
        // Locked memory (mlockall) cannot be returned.
        slab.stale |= bits & !clean;
        pool.stale += (bits & !clean).count_ones();
        pool.free.insert(number);
    }
}

/// Maps the address space of one slab, aligned to its size.
fn map() -> Option<NonNull<u8>> {
    // SAFETY: a new mapping, wherever the kernel likes; nothing that exists is touched.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            2 * SLAB,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    let before = start.align_offset(SLAB);
    // SAFETY: both ends lie within the mapping that was just made; before < SLAB, since the start is
    // aligned to a page of memory, so that one whole slab is left between them.
    unsafe {
        let slab = start.cast::<u8>().add(before);
        if before > 0 {
            libc::munmap(start, before);
        }
        libc::munmap(slab.add(SLAB).cast(), SLAB - before);
        // A huge page needs one fault instead of 512. It also works without huge pages.
        libc::madvise(slab.cast(), SLAB, libc::MADV_HUGEPAGE);
        NonNull::new(slab)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_apart_aligned_and_keep_their_bytes() {
        let mut blocks: Vec<_> = (0..3 * BLOCKS).map(|_| Block::take().unwrap().0).collect();
        for (i, block) in blocks.iter_mut().enumerate() {
            assert_eq!(block.as_ptr().addr() % BLOCK, 0);
            block.fill(u8::try_from(i).unwrap());
        }
        for (i, block) in blocks.iter().enumerate() {
            assert!(block.iter().all(|&byte| usize::from(byte) == i));
        }
    }

    #[test]
    fn a_block_that_is_reported_as_zero_is_zero() {
        for _ in 0..3 {
            let mut blocks: Vec<_> = (0..2 * KEPT).map(|_| Block::take().unwrap()).collect();
            for (block, content) in &mut blocks {
                assert!(*content == Content::Stale || block.iter().all(|&byte| byte == 0));
                block.fill(0xee);
            }
        }
    }

    #[test]
    fn freed_memory_goes_back_to_the_kernel() {
        let mut blocks: Vec<_> = (0..64 * BLOCKS).map(|_| Block::take().unwrap().0).collect();
        for block in &mut blocks {
            block.fill(1);
        }
        // Every second block, so that no slab is completely free.
        let (kept, freed): (Vec<_>, Vec<_>) =
            blocks.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
        drop(freed);
        let held = pool().stale;
        assert!(held <= KEPT, "{held} free blocks hold memory");
        assert!(kept.iter().all(|(_, block)| block.iter().all(|&byte| byte == 1)));
    }
}
