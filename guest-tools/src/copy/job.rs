//! What all workers of a copy share: the rules, what is left to do, and how it went.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use super::{error::CopyError, halt::Halt};

/// What is taken from the source at once to look for its holes, bytes; at most and at least.
const LONGEST: u64 = 128 << 20;
const SHORTEST: u64 = 4 << 20;
/// What it grows to where there are nothing but holes, bytes.
const BARREN: u64 = 1 << 40;

/// How the bytes go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Bytes of the source; unknown for a stream.
    pub(super) size: Option<u64>,
    /// Bytes that the destination has room for.
    pub(super) room: Option<u64>,
    /// Bytes of one read or write, at most.
    pub(super) request: u64,
    /// Requests of one worker.
    pub(super) depth: usize,
    /// Bytes that one worker has under way, or a little more.
    pub(super) queue: u64,
    /// What offsets and lengths are multiples of, bytes; a power of two.
    pub(super) align: u64,
    /// Runs of zeroes of this length are looked for; a multiple of `align`; 0 for none.
    pub(super) sparse: u64,
    /// The source is asked for its holes.
    pub(super) extents: bool,
    /// The destination is zeroes.
    pub(super) zero: bool,
    /// Zeroes take up space too.
    pub(super) allocate: bool,
    /// Durable at the end.
    pub(super) flush: bool,
}

/// A copy under way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) rules: Rules,
    pub(super) halt: Halt,
    /// Where the next stride begins, and how long it is.
    cursor: Mutex<(u64, u64)>,
    failure: Mutex<Option<CopyError>>,
    /// Bytes that were copied as data, and as zeroes.
    pub(super) data: AtomicU64,
    pub(super) zeroes: AtomicU64,
    /// Workers that have something to do.
    busy: AtomicUsize,
    /// It has been made durable.
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

    /// The next part of the source that nobody has; never of a stream.
    pub(super) fn claim(&self) -> Option<(u64, u64)> {
        let size = self.rules.size?;
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, stride) = *cursor;
        let end = at.saturating_add(stride).min(size);
        cursor.0 = end;
        (at < end).then_some((at, end))
    }

    /// There was nothing but zeroes in all of a stride.
    pub(super) fn was_barren(&self, barren: bool) {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = if barren { BARREN } else { LONGEST };
        let stride = if barren { cursor.1.saturating_mul(2) } else { cursor.1 };
        cursor.1 = stride.min(longest).next_multiple_of(self.rules.request);
    }

    /// Ends the copy. The first reason counts.
    pub(super) fn fail(&self, error: CopyError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.halt.raise();
    }

    pub(super) fn failure(&self) -> Option<CopyError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A worker has nothing more to do. True for the last one.
    pub(super) fn was_last(&self) -> bool {
        self.busy.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Bytes have come to their place.
    pub(super) fn finished(&self, len: u64, zeroes: bool) {
        let sum = if zeroes { &self.zeroes } else { &self.data };
        sum.fetch_add(len, Ordering::Relaxed);
    }

    /// Bytes that were copied.
    pub(super) fn done(&self) -> u64 {
        self.data.load(Ordering::Relaxed) + self.zeroes.load(Ordering::Relaxed)
    }
}
