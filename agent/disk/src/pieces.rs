//! Long operations in pieces: no disk and no layer works through a client's length in one go.
//!
//! Disks and layers call `in_pieces`; the agent's executor calls again for the rest, after other tenants
//! had their turn and if the client is still there.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use crate::{Answer, Disk, DiskError, Op, ranges::cuts};

/// Bytes in a piece of what the kernel or the memory disk does without moving data: 32 MiB.
pub const PIECE: u64 = 32 << 20;
/// Bytes in a piece of what is read, compared or written: 1 MiB.
pub const DATA_PIECE: u64 = 1 << 20;
/// How long one call goes on with further pieces. Shorter than the 50 ms that another client may be made to
/// wait, longer than what the hand-over costs.
const SLICE: Duration = Duration::from_millis(10);

/// How far `Disk::execute` has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a request that is not done has to be called again for its rest"]
pub enum Progress {
    /// All of it is done.
    Done,
    /// So many bytes from the start of a trim, zero or cache request are done: at least 1, and fewer than
    /// it has. With FUA these are durable only when the rest is done.
    Until(u64),
}

impl Progress {
    /// The same, of a request that begins `bytes` before.
    pub fn after(self, bytes: u64) -> Self {
        match self {
            Self::Done => Self::Done,
            Self::Until(more) => Self::Until(bytes + more),
        }
    }
}

/// Does `range` by calls of `each` for pieces that end at multiples of `unit` bytes, until it is done or the
/// time slice is over.
///
/// # Errors
/// That of the first piece that fails.
pub fn in_pieces<E>(
    range: Range<u64>,
    unit: u64,
    each: impl FnMut(Range<u64>) -> Result<(), E>,
) -> Result<Progress, E> {
    in_these(&range, cuts(range.clone(), unit), each)
}

/// The same with pieces of the caller's: parts of `range` that are not empty, in order. What lies between them
/// is done already.
pub(crate) fn in_these<E>(
    range: &Range<u64>,
    pieces: impl Iterator<Item = Range<u64>>,
    mut each: impl FnMut(Range<u64>) -> Result<(), E>,
) -> Result<Progress, E> {
    let started = Instant::now();
    for piece in pieces {
        let end = piece.end;
        each(piece)?;
        if end < range.end && started.elapsed() >= SLICE {
            return Ok(Progress::Until(end - range.start));
        }
    }
    Ok(Progress::Done)
}

/// Performs all of a request whose length the caller has bounded: what layers do to the disk below for a
/// piece of their own.
///
/// # Errors
/// Those of the disk.
pub fn execute_all(disk: &dyn Disk, op: &mut Op<'_>, answer: &mut Answer) -> Result<(), DiskError> {
    while let Progress::Until(bytes) = disk.execute(op, answer)? {
        op.skip(bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_long_range_is_left_after_the_time_slice_and_goes_on_where_it_was_left() {
        let (mut at, mut calls) = (5, 0);
        let end = 5 + 20 * DATA_PIECE;
        let mut seen = Vec::new();
        loop {
            calls += 1;
            let progress = in_pieces(at..end, DATA_PIECE, |piece| {
                seen.push(piece);
                thread::sleep(SLICE / 4);
                Ok::<_, ()>(())
            });
            match progress.unwrap() {
                Progress::Done => break,
                Progress::Until(bytes) => at += bytes,
            }
        }
        assert!(calls > 1, "one call did all of it");
        assert!(seen.windows(2).all(|pair| pair[0].end == pair[1].start), "{seen:?}");
        assert_eq!((seen[0].start, seen[seen.len() - 1].end), (5, end));
    }

    #[test]
    fn an_error_ends_it() {
        let mut calls = 0;
        let failed = in_pieces(0..u64::MAX, 1, |_| {
            calls += 1;
            if calls == 3 { Err("full") } else { Ok(()) }
        });
        assert_eq!((failed, calls), (Err("full"), 3));
    }
}
