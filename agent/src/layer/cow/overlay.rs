//! The blocks that differ from the disk below: a map in memory, and their bytes in an unnamed file, in the order in
//! which they were written.
//!
//! A block is read and changed under a lock that it shares with a few other blocks. No thread holds two of these locks.

use std::{
    fs::File,
    io,
    ops::{Deref, Range},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use nix::{
    fcntl::{FallocateFlags, fallocate},
    unistd::mkstemp,
};

use super::map::{BELOW, FIRST_SLOT, Map, TRIMMED};
use crate::sys::writeback;
use disk::{DiskError, Durability, Identity, MemoryBudget, Verb, joined, zeroed};

/// Locks of blocks. Neighbouring blocks have different locks.
const LOCKS: usize = 64;

/// Where the bytes of a block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// In the disk below.
    Below,
    /// In the overlay.
    Here,
    /// Nowhere: the block is zeroes.
    Trimmed,
}

/// What a block reads as.
#[derive(Debug)]
pub(super) enum Content {
    /// The bytes of the disk below, which never change.
    Below,
    Bytes(Vec<u8>),
    Zeroes,
}

#[derive(Debug)]
pub(super) struct Overlay {
    file: Unnamed,
    /// Tracks losses of the file, and which clients were told of them.
    pub(super) durability: Durability,
    /// The identity of the layer, because the overlay ends with it.
    identity: Identity,
    /// Size of the disk, in bytes.
    size: u64,
    block: u64,
    map: RwLock<Map>,
    slots: Mutex<Slots>,
    locks: [RwLock<()>; LOCKS],
}

/// A file without a name. It is closed on another thread, because freeing its blocks may take long.
#[derive(Debug)]
struct Unnamed(Option<File>);

impl Deref for Unnamed {
    type Target = File;

    fn deref(&self) -> &File {
        self.0.as_ref().expect("the file is there until the drop")
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        disk::close(self.0.take());
    }
}

/// Slots for blocks in the file.
#[derive(Debug)]
struct Slots {
    next: u32,
    free: Vec<u32>,
}

impl Overlay {
    /// An overlay for a disk of `size` bytes, in blocks of `block` bytes. The unnamed file is in `folder`. The memory of
    /// the map is charged to `budget`.
    pub(super) fn new(
        folder: &Path,
        size: u64,
        block: u64,
        identity: Identity,
        budget: Arc<MemoryBudget>,
    ) -> io::Result<Self> {
        let (fd, path) = mkstemp(&folder.join("agent-cow-XXXXXX"))?;
        std::fs::remove_file(path)?;
        Ok(Self {
            file: Unnamed(Some(File::from(fd))),
            durability: Durability::new(false),
            identity,
            size,
            block,
            map: RwLock::new(Map::new(budget)),
            slots: Mutex::new(Slots { next: FIRST_SLOT, free: Vec::new() }),
            locks: [const { RwLock::new(()) }; LOCKS],
        })
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes in a block.
    pub(super) fn block_size(&self) -> u64 {
        self.block
    }

    /// Whether no block differs from the disk below.
    pub(super) fn is_blank(&self) -> bool {
        self.map.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Fits the overlay to a disk of another size, which `below` reads. Bytes that are cut off are lost, and new bytes are
    /// those of the disk.
    pub(super) fn resize(
        &mut self,
        size: u64,
        below: impl FnOnce(u64, u32) -> Result<Vec<u8>, DiskError>,
    ) -> Result<(), DiskError> {
        let (number, short) = (self.size / self.block, self.size % self.block);
        // Beyond the old end the last block has no bytes, whatever the file holds.
        if size > self.size && short > 0 && self.entry(number) != BELOW {
            let end = self.size.next_multiple_of(self.block).min(size);
            let start = self.size - short;
            let bytes = match self.read(number, &(start..self.size))? {
                Content::Bytes(bytes) => bytes,
                Content::Zeroes | Content::Below => zeroes(&(0..short))?,
            };
            // A block has at most 64 MiB.
            let len = u32::try_from(end - self.size).unwrap_or(u32::MAX);
            let bytes = joined([&*bytes, &*below(self.size, len)?]);
            self.put(number, &bytes.map_err(|lack| failed(lack.into()))?)?;
        }
        self.forget(size.div_ceil(self.block));
        self.size = size;
        Ok(())
    }

    /// Drops all blocks from this one on.
    fn forget(&mut self, first: u64) {
        let map = self.map.get_mut().unwrap_or_else(PoisonError::into_inner);
        for slot in map.forget(first) {
            self.give_back(slot);
        }
    }

    /// Fails if the host has lost something of the overlay since the last failure. Nothing has to be made durable, because
    /// the overlay ends with the agent.
    pub(super) fn check(&self) -> io::Result<()> {
        writeback::check(&self.file)
    }

    /// The range of a block on the disk. The last block may be shorter.
    pub(super) fn block(&self, number: u64) -> Range<u64> {
        let start = number * self.block;
        start..(start + self.block).min(self.size)
    }

    /// The blocks of a range, each with its part of the range.
    pub(super) fn blocks(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
        let range = range.clone();
        (range.start / self.block..range.end.div_ceil(self.block)).map(move |number| {
            let start = number * self.block;
            (number, range.start.max(start)..range.end.min(start + self.block))
        })
    }

    pub(super) fn state(&self, number: u64) -> State {
        match self.entry(number) {
            BELOW => State::Below,
            TRIMMED => State::Trimmed,
            _ => State::Here,
        }
    }

    fn entry(&self, number: u64) -> u32 {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(number)
    }

    fn set(&self, number: u64, entry: u32) -> Result<(), DiskError> {
        self.map.write().unwrap_or_else(PoisonError::into_inner).set(number, entry)
    }

    fn reading(&self, number: u64) -> RwLockReadGuard<'_, ()> {
        self.lock(number).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self, number: u64) -> RwLockWriteGuard<'_, ()> {
        self.lock(number).write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self, number: u64) -> &RwLock<()> {
        &self.locks[usize::try_from(number % LOCKS as u64).unwrap_or(0)]
    }

    /// Length of the file in bytes, holes included.
    #[cfg(test)]
    pub(super) fn room(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    /// The offset in the file of byte `at` of a block.
    fn offset(&self, slot: u32, number: u64, at: u64) -> u64 {
        u64::from(slot - FIRST_SLOT) * self.block + (at - number * self.block)
    }

    /// Reads `part` of a block.
    pub(super) fn read(&self, number: u64, part: &Range<u64>) -> Result<Content, DiskError> {
        let _lock = self.reading(number);
        let slot = match self.entry(number) {
            BELOW => return Ok(Content::Below),
            TRIMMED => return Ok(Content::Zeroes),
            slot => slot,
        };
        let mut bytes = zeroes(part)?;
        self.file
            .read_exact_at(&mut bytes, self.offset(slot, number, part.start))
            .map_err(failed)?;
        Ok(Content::Bytes(bytes))
    }

    /// Writes `bytes` to `part` of a block. The rest of the block keeps its bytes; `original` reads them from below.
    pub(super) fn write(
        &self,
        number: u64,
        part: &Range<u64>,
        bytes: &[u8],
        original: impl FnOnce() -> Result<Vec<u8>, DiskError>,
    ) -> Result<(), DiskError> {
        let whole = self.block(number);
        let _lock = self.writing(number);
        match self.entry(number) {
            _ if *part == whole => self.put(number, bytes),
            state @ (BELOW | TRIMMED) => {
                let mut block = if state == BELOW { original()? } else { zeroes(&whole)? };
                let start = usize::try_from(part.start - whole.start).unwrap_or(usize::MAX);
                block[start..start + bytes.len()].copy_from_slice(bytes);
                self.put(number, &block)
            }
            slot => {
                let at = self.offset(slot, number, part.start);
                self.file.write_all_at(bytes, at).map_err(failed)
            }
        }
    }

    /// Copies a block into the overlay, if the overlay does not have it.
    pub(super) fn fill(
        &self,
        number: u64,
        original: impl FnOnce() -> Result<Vec<u8>, DiskError>,
    ) -> Result<(), DiskError> {
        let _lock = self.writing(number);
        if self.entry(number) == BELOW { self.put(number, &original()?) } else { Ok(()) }
    }

    /// Makes a whole block zeroes, which take no space.
    pub(super) fn trim(&self, number: u64) -> Result<(), DiskError> {
        let _lock = self.writing(number);
        let before = self.entry(number);
        self.set(number, TRIMMED)?;
        if before >= FIRST_SLOT {
            self.give_back(before);
        }
        Ok(())
    }

    /// Writes all bytes of a block. The caller holds the lock of the block.
    fn put(&self, number: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let before = self.entry(number);
        let slot = if before >= FIRST_SLOT { before } else { self.slot()? };
        let at = u64::from(slot - FIRST_SLOT) * self.block;
        let mut done = self.file.write_all_at(bytes, at).map_err(failed);
        if before < FIRST_SLOT {
            done = done.and_then(|()| self.set(number, slot));
            if done.is_err() {
                self.give_back(slot);
            }
        }
        done
    }

    fn slot(&self) -> Result<u32, DiskError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.free.pop() {
            return Ok(slot);
        }
        let slot = slots.next;
        let full = || failed(io::Error::from_raw_os_error(libc::ENOSPC));
        slots.next = slot.checked_add(1).ok_or_else(full)?;
        Ok(slot)
    }

    fn give_back(&self, slot: u32) {
        let start = i64::try_from(u64::from(slot - FIRST_SLOT) * self.block);
        let len = i64::try_from(self.block);
        if let (Ok(start), Ok(len)) = (start, len) {
            let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // A filesystem without holes keeps the space, and the next block reuses it.
            fallocate(&*self.file, mode, start, len).ok();
        }
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).free.push(slot);
    }
}

/// Zeroes for a range.
pub(super) fn zeroes(range: &Range<u64>) -> Result<Vec<u8>, DiskError> {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    zeroed(len).map_err(|lack| failed(lack.into()))
}

/// An error of the file. The caller replaces `Verb::Open` by the verb of the request.
fn failed(error: io::Error) -> DiskError {
    DiskError::from_io(Verb::Open, (0, 0), error)
}
