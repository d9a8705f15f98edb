//! Long operations in pieces: no disk and no layer processes a length that a client chose in one call.
//!
//! Disks and layers call `in_pieces`. The agent's executor calls again for the rest, after other tenants had their turn,
//! if the client is still connected.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use crate::{Answer, Disk, DiskError, Op, ranges::cuts};

/// Bytes of a piece for operations that move no data: 32 MiB.
pub const PIECE: u64 = 32 << 20;
/// Bytes of a piece for operations that read, compare or write data: 1 MiB.
pub const DATA_PIECE: u64 = 1 << 20;
/// The time after which a call starts no further piece. It is shorter than the 50 ms that another client may have to
/// wait, and longer than handing the request to another thread.
const SLICE: Duration = Duration::from_millis(10);

/// The result of `Disk::execute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a request that is not done has to be called again for its rest"]
pub enum Progress {
    /// The request is done.
    Done,
    /// The first bytes of a trim, zero or cache request are done: this many, at least 1 and fewer than the request has.
    /// With FUA they are durable only when the rest is done.
    Until(u64),
}

impl Progress {
    /// The progress of a request that has `bytes` more at its start, which are done.
    pub fn after(self, bytes: u64) -> Self {
        match self {
            Self::Done => Self::Done,
            Self::Until(more) => Self::Until(bytes + more),
        }
    }
}

/// Calls `each` for the pieces of `range`, which end at multiples of `unit` bytes, until all are done or 10 ms have
/// passed.
///
/// # Errors
/// The error of the first piece that fails.
pub fn in_pieces<E>(
    range: Range<u64>,
    unit: u64,
    each: impl FnMut(Range<u64>) -> Result<(), E>,
) -> Result<Progress, E> {
    in_these(&range, cuts(range.clone(), unit), each)
}

/// As [`in_pieces`], with the caller's pieces: parts of `range` that are not empty, in order. The bytes between them
/// are done already.
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

/// Executes a whole request, whose length the caller has bounded. Layers call it on the disk below for one of their
/// pieces.
///
/// # Errors
/// The error of the disk.
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
