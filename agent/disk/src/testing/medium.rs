//! A model of a file in Linux on a medium that fails on demand: a page cache, a device with a volatile cache, and an
//! error of writeback that each descriptor reports once (errseq_t). Its disks are opened through a registry, as files
//! are.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::model::BLOCKS;
use crate::{
    Answer, Disk, DiskError, DiskInfo, Identity, Op, Piece, Progress, Turn, Waiter,
    auditor::{Audit, Auditor, Begun, Hears},
    descriptors::{Descriptors, Sync},
    inode::Inode,
    registry::{Member, Registry, Witness},
};

/// Bytes of a block. Requests to these disks are whole blocks.
const BLOCK: u64 = 512;

/// The next failure, which happens once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// The next writeback to the device fails.
    Writeback,
    /// The next flush of the device's cache fails. Its bytes are lost, and only the caller gets the error.
    DeviceFlush,
}

/// A file on a medium that fails on demand. Clones are the same file.
#[derive(Debug, Clone)]
pub struct Medium {
    file: Arc<Mutex<Kept>>,
    registry: Registry<Opens>,
    begins: bool,
}

impl Default for Medium {
    fn default() -> Self {
        Self::new()
    }
}

impl Medium {
    /// A file of as many blocks as the model writes.
    pub fn new() -> Self {
        Self::of(BLOCKS)
    }

    /// A file of this many blocks of 512 bytes.
    pub fn of(blocks: usize) -> Self {
        let kept = Kept { blocks: vec![Block::default(); blocks], ..Kept::default() };
        Self { file: Arc::new(Mutex::new(kept)), registry: Registry::new(), begins: false }
    }

    /// Disks that are opened from now on go on with writes by themselves, as a file does by io_uring.
    #[must_use]
    pub fn beginning(mut self) -> Self {
        self.begins = true;
        self
    }

    /// Causes a failure, or something that the kernel may do at any time.
    pub fn fail(&self, what: u8) {
        match what % 4 {
            0 => self.next(Mishap::Writeback),
            1 => self.next(Mishap::DeviceFlush),
            2 => self.synced_by_another(),
            _ => self.write_back(),
        }
    }

    /// Causes this failure at the next opportunity.
    pub fn next(&self, mishap: Mishap) {
        lock(&self.file).next.push(mishap);
    }

    /// Causes no failure from now on.
    pub fn recover(&self) {
        lock(&self.file).next.clear();
    }

    /// The kernel writes dirty blocks back by itself.
    pub fn write_back(&self) {
        let mut kept = lock(&self.file);
        let all = 0..kept.blocks.len();
        kept.write_back(all);
    }

    /// Another program opens the file, syncs it and gets its errors. A descriptor that is opened later does not get them.
    pub fn synced_by_another(&self) {
        let other = Descriptor::open(&self.file);
        self.write_back();
        // The result of that sync is not used here. Only that program would know that the device's cache failed.
        other.check(&mut lock(&self.file)).ok();
    }

    /// The number of failures.
    pub fn losses(&self) -> u64 {
        lock(&self.file).losses
    }

    /// The blocks after a power cut. `None`: the last write is lost already.
    pub fn durable(&self) -> Vec<Option<u8>> {
        let kept = lock(&self.file);
        kept.blocks.iter().map(|block| (!block.lost).then_some(block.medium)).collect()
    }

    /// Opens it as `FileDisk::open` opens a file.
    pub fn open(&self) -> FlakyDisk {
        let inode = Inode { device: 0, inode: None };
        let descriptor = || Descriptor::open(&self.file);
        let member = self.registry.join(inode).unwrap_or_else(|| {
            let identity = Identity::of("medium", &[]);
            let descriptors = Descriptors::new(descriptor(), false);
            let witness = Opens { descriptors, auditor: Auditor::new(descriptor()) };
            self.registry.join_with(inode, identity, "the medium".to_owned(), witness)
        });
        let opened = member.witness().descriptors.add(descriptor(), |_, _| false);
        FlakyDisk { opened, member, begins: self.begins }
    }
}

#[derive(Debug, Default)]
struct Kept {
    blocks: Vec<Block>,
    /// The number of errors of writeback, and whether a descriptor has reported the last one.
    error: u64,
    seen: bool,
    next: Vec<Mishap>,
    /// Times that something went wrong.
    losses: u64,
}

/// The bytes of a block at each level. A value stands for a whole block.
#[derive(Debug, Default, Clone)]
struct Block {
    cache: u8,
    dirty: bool,
    /// In the device's volatile cache.
    device: Option<u8>,
    medium: u8,
    /// The last write is lost.
    lost: bool,
}

impl Kept {
    fn goes_wrong(&mut self, mishap: Mishap) -> bool {
        let found = self.next.iter().position(|next| *next == mishap);
        found.map(|found| self.next.remove(found)).is_some()
    }

    /// Writes dirty blocks back. Only descriptors report an error.
    fn write_back(&mut self, range: std::ops::Range<usize>) {
        if !self.blocks[range.clone()].iter().any(|block| block.dirty) {
            return;
        }
        let fails = self.goes_wrong(Mishap::Writeback);
        for block in self.blocks[range].iter_mut().filter(|block| block.dirty) {
            (block.dirty, block.lost) = (false, fails);
            if !fails {
                block.device = Some(block.cache);
            }
        }
        if fails {
            self.losses += 1;
            self.error += 1;
            self.seen = false;
        }
    }

    fn flush_device(&mut self) -> io::Result<()> {
        let fails = self.goes_wrong(Mishap::DeviceFlush);
        for block in &mut self.blocks {
            if let Some(value) = block.device.take() {
                if fails {
                    block.lost |= !block.dirty;
                } else {
                    block.medium = value;
                }
            }
        }
        self.losses += u64::from(fails);
        if fails { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }
}

/// An open file, with the errors that it has reported.
#[derive(Debug)]
struct Descriptor {
    file: Arc<Mutex<Kept>>,
    heard: Mutex<u64>,
}

impl Descriptor {
    fn open(file: &Arc<Mutex<Kept>>) -> Self {
        let inode = lock(file);
        let heard = Mutex::new(if inode.seen { inode.error } else { 0 });
        Self { file: Arc::clone(file), heard }
    }

    /// Fails once with the last error.
    fn check(&self, inode: &mut Kept) -> io::Result<()> {
        let mut heard = lock(&self.heard);
        if *heard == inode.error {
            return Ok(());
        }
        (*heard, inode.seen) = (inode.error, true);
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    fn fdatasync(&self, range: Option<usize>) -> io::Result<()> {
        let mut inode = lock(&self.file);
        let all = 0..inode.blocks.len();
        inode.write_back(range.map_or(all, |block| block..block + 1));
        self.check(&mut inode)?;
        inode.flush_device()
    }
}

impl Sync for Descriptor {
    fn sync(&self) -> io::Result<()> {
        self.fdatasync(None)
    }
}

impl Hears for Descriptor {
    fn hear(&self) -> io::Result<()> {
        self.check(&mut lock(&self.file))
    }
}

/// The descriptors of a process.
#[derive(Debug)]
struct Opens {
    descriptors: Descriptors<Descriptor, Descriptor>,
    auditor: Auditor<Descriptor>,
}

impl Witness for Opens {
    fn sync(&self) -> io::Result<()> {
        self.descriptors.sync()
    }

    fn is_unlinked(&self) -> bool {
        false
    }

    fn begin(&self) -> Begun {
        self.auditor.begin()
    }

    fn audit(&self, begun: Begun) -> Audit {
        self.auditor.audit(begun)
    }
}

/// A disk on a `Medium`, for one connection. It accepts whole blocks, in each of which all bytes are equal.
#[derive(Debug)]
pub struct FlakyDisk {
    opened: Arc<Descriptor>,
    member: Member<Opens>,
    begins: bool,
}

impl FlakyDisk {
    fn write(&self, block: usize, value: u8, fua: bool) -> io::Result<bool> {
        {
            let block = &mut lock(&self.opened.file).blocks[block];
            (block.cache, block.dirty, block.lost) = (value, true, false);
        }
        if fua {
            self.opened.fdatasync(Some(block))?;
        }
        Ok(fua)
    }

    fn do_it(&self, op: &mut Op<'_>, answer: &mut Answer) -> io::Result<()> {
        let (at, _) = op.range();
        let block = usize::try_from(at / BLOCK).unwrap_or(usize::MAX);
        match op {
            Op::Read { len, .. } => {
                let value = lock(&self.opened.file).blocks[block].cache;
                answer.pieces.push(Piece::Bytes(vec![value; *len as usize].into()));
                Ok(())
            }
            Op::Write { data, fua, .. } => {
                let value = data.slices()[0][0];
                if *fua {
                    self.member.write_durably(|| self.write(block, value, true))
                } else {
                    self.member.change(|| self.write(block, value, false)).map(drop)
                }
            }
            Op::Trim { fua, .. } | Op::Zero { fua, .. } => {
                self.member.change(|| self.write(block, 0, false))?;
                if *fua { self.member.make_durable() } else { Ok(()) }
            }
            Op::Flush => self.member.flush(),
            Op::Settle => self.member.make_durable(),
            Op::Cache { .. } | Op::Extents { .. } => {
                Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
            }
        }
    }
}

impl Disk for FlakyDisk {
    fn info(&self) -> DiskInfo {
        let size = lock(&self.opened.file).blocks.len() as u64 * BLOCK;
        DiskInfo { can_extents: false, can_cache: false, ..DiskInfo::plain(size, None) }
    }

    fn try_execute(&self, _: &mut Op<'_>, _: &mut Answer) -> Result<Turn, DiskError> {
        Ok(Turn::WouldBlock)
    }

    fn begins(&self) -> bool {
        self.begins
    }

    fn begin(&self, op: &mut Op<'_>, waiter: Box<dyn Waiter>) {
        let Op::Write { at, data, fua } = op else { return waiter.blocks(op.take_pages()) };
        let (block, value, fua) = (*at / BLOCK, data.slices()[0][0], *fua);
        let pages = op.take_pages();
        let begun = fua.then(|| self.member.begin_durable());
        let moved = self.write(usize::try_from(block).unwrap_or(usize::MAX), value, fua);
        let done = if let Some(begun) = begun {
            self.member.end_durable(begun, moved.err())
        } else {
            self.member.wrote();
            moved.is_ok()
        };
        if done { waiter.done(Answer::default()) } else { waiter.blocks(pages) }
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let (verb, range) = (op.verb(), op.range());
        self.do_it(op, answer).map_err(|error| DiskError::from_io(verb, range, error))?;
        Ok(Progress::Done)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
