//! A disk that is a file or a block device of the host.
//!
//! `plugin` and `exports` of the agent open it. A read that the page cache can answer is one system call on the
//! connection's task. Other reads are begun (`begin`), and everything else is executed on a thread that may block. All
//! reads and writes are positional, so nothing depends on the file's position.

mod begin;
mod direct;
mod edges;
mod extents;
mod look;
mod open;
mod shared;
mod which;
mod zero;

use std::{
    fs::File,
    io::{self, IoSlice},
    ops::Range,
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use direct::Direct;
use edges::Edges;
pub use open::{Advice, Cache, FileError, Options};
use shared::Member;

use super::{
    Answer, Asked, DATA_PIECE, Disk, DiskError, DiskInfo, Kind, Op, PIECE, Progress, Turn, Verb,
    Waiter, in_pieces,
    ranges::{cuts, length},
};
use crate::{
    closer,
    queue::{Payer, Share},
    room,
    sys::file::{self as sys, Until, Wait},
};

/// Maximum number of bytes that are read on the connection's task, and per system call.
const WINDOW: u64 = 1 << 20;
/// Size in bytes of the smallest page of the page cache.
const CACHE_PAGE: u64 = 4096;

/// A file or block device, opened for one connection. A loss of another connection to the same file is reported here too
/// (`durability`).
#[derive(Debug)]
pub struct FileDisk(Arc<Inner>);

/// The open file. Requests in flight in the kernel share it, and may be the last to drop it.
#[derive(Debug)]
struct Inner {
    /// `None` only during the drop.
    held: Option<Held>,
    /// The share of this connection's payer in the queue of the file's device.
    share: Arc<Share>,
    /// Number of further reads that are begun without a look in the page cache.
    unlooked: AtomicU32,
}

#[derive(Debug)]
struct Held {
    opened: Arc<Opened>,
    member: Member,
}

/// A file with one descriptor, shared by the connections that opened it in the same way and found the same properties.
#[derive(Debug)]
struct Opened {
    file: File,
    options: Options,
    info: DiskInfo,
    /// The sector size in bytes of a block device, which needs whole sectors and does not report holes. `None` for a
    /// file.
    sector: Option<u64>,
    /// Settings for O_DIRECT (`cache=none`).
    direct: Option<Direct>,
    edges: Edges,
    /// Calls that the kernel and the filesystem have not refused yet.
    can: Abilities,
    /// Whether the file may have holes. Zeroes in bytes that were read are found in any case.
    sparse: AtomicBool,
    /// Whether it is on a block device of this machine.
    local: bool,
    /// Whether the kernel completes some requests without a thread (`begin`).
    ringed: bool,
}

/// Calls that the kernel or the filesystem may not support. Each is tried until it is refused.
#[derive(Debug, Default)]
struct Abilities {
    read_nowait: Ability,
    write_durable: Ability,
    punch: Ability,
    zero_range: Ability,
    allocate: Ability,
    discard: Ability,
}

#[derive(Debug, Default)]
struct Ability {
    refused: AtomicBool,
}

impl Ability {
    /// The result of `call`. `None` if it is known or turns out to be unsupported.
    fn with<T>(&self, mut call: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
        if self.refused.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match uninterrupted(&mut call) {
            Ok(value) => Ok(Some(value)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::ENODEV) => {
                    self.refused.store(true, Ordering::Relaxed);
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }
}

/// The result of `call`, which is repeated while signals interrupt it.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl Inner {
    fn new(held: Held, payer: Payer) -> Self {
        let share = Share::of(held.member.medium(), payer, held.opened.local);
        Self { held: Some(held), share, unlooked: AtomicU32::new(0) }
    }

    fn held(&self) -> &Held {
        self.held.as_ref().expect("it is there until it is dropped")
    }
}

impl Opened {
    /// Whether this file and the other can replace each other.
    fn is_like(&self, other: &Self) -> bool {
        self.options == other.options && self.info == other.info
    }

    /// Reads a range. Holes that the filesystem reports are skipped, except inside a window that starts with data.
    fn read(&self, range: Range<u64>, answer: &mut Answer) -> io::Result<()> {
        for window in cuts(range, WINDOW) {
            let data = if self.may_have_holes() { self.data_from(&window)? } else { window.start };
            answer.push_hole(data - window.start);
            if data < window.end {
                let rest = data..window.end;
                match &self.direct {
                    Some(direct) => direct.read(&self.file, rest, answer)?,
                    None => read_buffered(&self.file, rest, answer)?,
                }
            }
        }
        Ok(())
    }

    fn may_have_holes(&self) -> bool {
        self.sector.is_none() && self.sparse.load(Ordering::Relaxed)
    }

    /// Writes all slices at offset `at`. Returns whether the bytes are durable, which they can be only with
    /// `Until::Durable`.
    fn write(&self, at: u64, slices: &[&[u8]], until: Until) -> io::Result<bool> {
        if let Some(direct) = &self.direct {
            direct.write(&self.file, &self.edges, at, slices, until, &self.can.write_durable)
        } else {
            let _together = self.edges.together();
            write_buffered(&self.file, at, slices, until, &self.can.write_durable)
        }
    }

    /// Finds out whether the file may have holes, that is, has fewer blocks than bytes. A filesystem that compresses
    /// may count few blocks for a file without holes. That costs only one more system call per read.
    fn look_for_holes(&self) {
        let sparse = self.file.metadata().map_or(true, |now| now.blocks() * 512 < self.info.size);
        self.sparse.store(sparse, Ordering::Relaxed);
    }
}

impl Held {
    fn flush(&self) -> io::Result<()> {
        self.member.flush()?;
        self.opened.look_for_holes();
        Ok(())
    }

    fn do_it(&self, op: &mut Op<'_>, answer: &mut Answer) -> io::Result<Progress> {
        let (at, len) = op.range();
        let range = at..at + len;
        let Self { opened, member } = self;
        let write = |slices: &[&[u8]], until| opened.write(at, slices, until);
        match op {
            Op::Read { .. } => opened.read(range, answer)?,
            Op::Write { data, fua: true, .. } => {
                member.write_durably(|| write(&data.slices(), Until::Durable))?;
            }
            Op::Write { data, fua: false, .. } => {
                member.change(|| write(&data.slices(), Until::Taken))?;
            }
            Op::Flush => self.flush()?,
            Op::Settle => member.make_durable()?,
            Op::Trim { fua, .. } => {
                let piece = |piece| opened.trim(&piece);
                let progress = member.change(|| in_pieces(range, PIECE, piece))?;
                return self.durable_if(*fua, progress);
            }
            Op::Zero { fua, may_trim, fast, .. } => {
                // Writing 32 MiB of zeroes would take too long.
                let unit = if opened.zeroes_in_kernel() { PIECE } else { DATA_PIECE };
                let piece = |piece| opened.zero(&piece, *may_trim, *fast);
                let progress = member.change(|| in_pieces(range, unit, piece))?;
                return self.durable_if(*fua, progress);
            }
            Op::Cache { .. } => return in_pieces(range, PIECE, |piece| opened.prefetch(&piece)),
            Op::Extents { one, .. } => opened.extents(&range, *one, answer)?,
        }
        Ok(Progress::Done)
    }

    /// Makes a request with FUA durable when all of it is done.
    fn durable_if(&self, fua: bool, progress: Progress) -> io::Result<Progress> {
        if fua && progress == Progress::Done {
            self.member.make_durable()?;
        }
        Ok(progress)
    }
}

impl Disk for FileDisk {
    fn info(&self) -> DiskInfo {
        self.0.held().opened.info.clone()
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match op {
            Op::Read { at, len } => Ok(self.0.read_cached(*at, *len, answer)),
            _ => Ok(Turn::WouldBlock),
        }
    }

    fn begins(&self) -> bool {
        self.0.held().opened.ringed
    }

    fn begin(&self, op: &mut Op<'_>, waiter: Box<dyn Waiter>) {
        self.0.begin(op, waiter);
    }

    fn is_brief(&self, asked: Asked) -> bool {
        self.is_cached_write(asked)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let (verb, range) = (op.verb(), op.range());
        let held = self.0.held();
        if held.opened.info.read_only
            && matches!(op, Op::Write { .. } | Op::Trim { .. } | Op::Zero { .. })
        {
            return Err(DiskError::new(Kind::Denied, verb, range));
        }
        let _reading = match op {
            // When the queue is full, cached bytes are read here too.
            Op::Read { at, len }
                if self.0.share.is_full() && held.opened.read_if_cached(*at, *len, answer) =>
            {
                return Ok(Progress::Done);
            }
            // One window after the other.
            Op::Read { len, .. } => Some(self.0.share.reading(u64::from(*len).min(WINDOW))),
            Op::Cache { len, .. } => Some(self.0.share.reading((*len).min(PIECE))),
            _ => None,
        };
        held.do_it(op, answer).map_err(|error| DiskError::from_io(verb, range, error))
    }
}

impl FileDisk {
    /// Charges the requests of this connection to `payer`. Connections of one payer share its part of the device's
    /// queue. Without this call all connections have the same payer.
    #[must_use]
    pub fn charged_to(mut self, payer: Payer) -> Self {
        let inner = Arc::get_mut(&mut self.0).expect("it was opened, and nobody else has it yet");
        let held = inner.held();
        inner.share = Share::of(held.member.medium(), payer, held.opened.local);
        self
    }

    /// Whether a write needs only the page cache: no page must be read first, and the write does not wait.
    fn is_cached_write(&self, asked: Asked) -> bool {
        let (at, len) = asked.range;
        asked.verb == Verb::Write
            && !asked.durable
            && self.0.held().opened.direct.is_none()
            && (at | len).is_multiple_of(CACHE_PAGE)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        match self.held.take() {
            Some(held) if held.member.owes() => {
                closer::close_on(held.member.medium(), held);
            }
            held => drop(held),
        }
    }
}

/// Appends all of `range` to `bytes`, which has room for it. Fails if the file ends before the end of the range.
fn read_exactly(file: &File, range: &Range<u64>, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let len = length(&(at..range.end));
        match uninterrupted(|| sys::read(file, bytes, len, at, Wait::Allowed))? {
            0 => return Err(shrunk()),
            n => at += n as u64,
        }
    }
    Ok(())
}

/// The error of a file that was truncated below the size of its disk.
fn shrunk() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was when opened")
}

fn read_buffered(file: &File, range: Range<u64>, answer: &mut Answer) -> io::Result<()> {
    let mut bytes = room(length(&range))?;
    read_exactly(file, &range, &mut bytes)?;
    answer.push_scanned(range.start, bytes, 0);
    Ok(())
}

/// Writes all slices from `at` on. Returns whether they are durable, which they can be only if asked for.
fn write_buffered(
    file: &File,
    at: u64,
    slices: &[&[u8]],
    until: Until,
    durable: &Ability,
) -> io::Result<bool> {
    let mut slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
    let mut rest = slices.as_mut_slice();
    // Empty slices are removed, because writing only those would look like a write that makes no progress.
    IoSlice::advance_slices(&mut rest, 0);
    let (mut at, mut all_durable) = (at, until == Until::Durable);
    while !rest.is_empty() {
        let n = if all_durable {
            durable.with(|| sys::write(file, rest, at, Until::Durable))?
        } else {
            Some(uninterrupted(|| sys::write(file, rest, at, Until::Taken))?)
        };
        match n {
            None => all_durable = false,
            Some(0) => return Err(io::ErrorKind::WriteZero.into()),
            Some(n) => {
                at += n as u64;
                IoSlice::advance_slices(&mut rest, n);
            }
        }
    }
    Ok(all_durable)
}

#[cfg(test)]
mod tests;
