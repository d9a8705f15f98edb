//! What all workers of a copy share: the rules, the remaining work, and the result.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use super::{error::CopyError, halt::Halt};

/// The longest and the shortest stride, in bytes. A worker takes one stride of the source at a time
/// and asks for its holes.
const LONGEST: u64 = 128 << 20;
const SHORTEST: u64 = 4 << 20;
/// The longest stride where the source has only holes, in bytes.
const BARREN: u64 = 1 << 40;

/// The parameters of a copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The size of the source in bytes; `None` for a stream.
    pub(super) size: Option<u64>,
    /// The bytes that the destination has room for; `None` if it grows.
    pub(super) room: Option<u64>,
    /// The longest read or write, in bytes.
    pub(super) request: u64,
    /// The most requests in flight of one worker.
    pub(super) depth: usize,
    /// The bytes that one worker has in flight. It may exceed this by one request.
    pub(super) queue: u64,
    /// Offsets and lengths are multiples of this number of bytes, a power of two.
    pub(super) align: u64,
    /// Look for runs of zeroes of this length in bytes, a multiple of `align`. 0: do not look.
    pub(super) sparse: u64,
    /// Ask the source for its holes.
    pub(super) extents: bool,
    /// The destination reads as zeroes already.
    pub(super) zero: bool,
    /// Allocate space for zeroes too.
    pub(super) allocate: bool,
    /// Make the copy durable at the end.
    pub(super) flush: bool,
}

/// A copy in progress.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) rules: Rules,
    pub(super) halt: Halt,
    /// The start and the length of the next stride, in bytes.
    cursor: Mutex<(u64, u64)>,
    failure: Mutex<Option<CopyError>>,
    /// Bytes copied as data, and bytes copied as zeroes.
    pub(super) data: AtomicU64,
    pub(super) zeroes: AtomicU64,
    /// How many workers still have something to do.
    busy: AtomicUsize,
    /// The destination has been made durable.
    pub(super) flushed: AtomicBool,
}

impl Job {
    pub(super) fn new(rules: Rules, workers: usize) -> Result<Self, CopyError> {
        let share = rules.size.unwrap_or(0) / (4 * workers as u64);
        let stride = share.clamp(SHORTEST, LONGEST).next_multiple_of(rules.request);
        Ok(Self {
            rules,
            halt: Halt::new().map_err(CopyError::Watch)?,
            cursor: Mutex::new((0, stride)),
            failure: Mutex::new(None),
            data: AtomicU64::new(0),
            zeroes: AtomicU64::new(0),
            busy: AtomicUsize::new(workers),
            flushed: AtomicBool::new(false),
        })
    }

    /// Takes the next stride of the source; never of a stream.
    pub(super) fn claim(&self) -> Option<(u64, u64)> {
        let size = self.rules.size?;
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, stride) = *cursor;
        let end = at.saturating_add(stride).min(size);
        cursor.0 = end;
        (at < end).then_some((at, end))
    }

    /// Adapts the length of the strides, according to whether a whole stride was zeroes.
    pub(super) fn was_barren(&self, barren: bool) {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = if barren { BARREN } else { LONGEST };
        let stride = if barren { cursor.1.saturating_mul(2) } else { cursor.1 };
        cursor.1 = stride.min(longest).next_multiple_of(self.rules.request);
    }

    /// Ends the copy. The first error is kept.
    pub(super) fn fail(&self, error: CopyError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.halt.raise();
    }

    pub(super) fn failure(&self) -> Option<CopyError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Called by a worker that has nothing more to do. Returns whether it is the last one.
    pub(super) fn was_last(&self) -> bool {
        self.busy.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Counts bytes that have been written.
    pub(super) fn finished(&self, len: u64, zeroes: bool) {
        let sum = if zeroes { &self.zeroes } else { &self.data };
        sum.fetch_add(len, Ordering::Relaxed);
    }

    /// How many bytes were copied.
    pub(super) fn done(&self) -> u64 {
        self.data.load(Ordering::Relaxed) + self.zeroes.load(Ordering::Relaxed)
    }
}
