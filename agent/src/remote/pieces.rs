//! Ranges and buffers in pieces: one request of a client may be several requests to the remote
//! server.

use std::sync::Arc;

use nbd::wire::ExtentFlags;
use nbd_client::{Done, Order};

use disk::{Answer, Extent, Piece, Slice};

/// Splits a range into pieces of at most `most` bytes.
pub(super) fn pieces(at: u64, len: u64, most: u64) -> impl Iterator<Item = (u64, u64)> {
    let most = most.max(1);
    (0..len.div_ceil(most)).map(move |i| (at + i * most, most.min(len - i * most)))
}

/// Takes `len` bytes off the front of `runs`.
pub(super) fn take_front<'a>(runs: &mut Vec<&'a [u8]>, mut len: usize) -> Vec<&'a [u8]> {
    let mut front = Vec::new();
    let mut used = 0;
    for run in runs.iter_mut() {
        let n = run.len().min(len);
        let (head, tail) = run.split_at(n);
        if n > 0 {
            front.push(head);
        }
        *run = tail;
        len -= n;
        if !tail.is_empty() {
            break;
        }
        used += 1;
    }
    runs.drain(..used);
    front
}

/// Minimum length in bytes of a hole that is kept as one. A shorter hole is cheaper as zeroes.
const HOLE: u64 = 4096;

/// Appends what was read to the answer. Holes stay holes.
pub(super) fn put_pieces(done: Done, answer: &mut Answer) {
    let Done { order: Order { at, bytes, .. }, holes, .. } = done;
    put_holes(at, bytes, holes, answer);
}

fn put_holes(at: u64, bytes: Vec<u8>, mut holes: Vec<(u64, u64)>, answer: &mut Answer) {
    holes.retain(|(_, len)| *len >= HOLE);
    if holes.is_empty() {
        answer.pieces.push(Piece::Bytes(bytes.into()));
        return;
    }
    holes.sort_unstable();
    let len = bytes.len() as u64;
    let bytes = Arc::new(bytes);
    let mut next = 0;
    let data = |from: u64, to: u64, answer: &mut Answer| {
        let within = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        if from < to && to <= len {
            let range = within(from)..within(to);
            answer.pieces.push(Piece::Bytes(Slice::Owned(Arc::clone(&bytes), range)));
        }
    };
    for (begin, hole) in holes {
        let begin = begin - at;
        data(next, begin, answer);
        answer.pieces.push(Piece::Hole(hole));
        next = begin + hole;
    }
    data(next, len, answer);
}

/// The extents of the first `len` bytes, because the last one may reach beyond the requested range.
pub(super) fn extents(found: &[nbd_client::Extent], len: u64) -> Vec<Extent> {
    let mut left = len;
    let mut cut = |extent: &nbd_client::Extent| {
        let len = extent.len.min(left);
        left -= len;
        let has = |flag| extent.flags.contains(flag);
        (len > 0).then(|| Extent {
            len,
            hole: has(ExtentFlags::HOLE),
            zero: has(ExtentFlags::ZERO),
        })
    };
    found.iter().map_while(&mut cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_into_pieces_that_cover_them() {
        let cut: Vec<_> = pieces(10, 25, 10).collect();
        assert_eq!(cut, [(10, 10), (20, 10), (30, 5)]);
        assert_eq!(pieces(0, 0, 10).count(), 0);
        let mut runs: Vec<&[u8]> = vec![b"abc", b"", b"defg"];
        assert_eq!(take_front(&mut runs, 4).concat(), b"abcd");
        assert_eq!(take_front(&mut runs, 9).concat(), b"efg");
        assert!(runs.is_empty());
    }

    #[test]
    fn holes_stay_holes() {
        let size = 4096;
        let mut answer = Answer::default();
        put_holes(
            100,
            vec![1; 4 * 4096],
            vec![(100 + 3 * size, size), (100 + size, size)],
            &mut answer,
        );
        let lens: Vec<_> = answer
            .pieces
            .iter()
            .map(|piece| (piece.len(), matches!(piece, Piece::Hole(_))))
            .collect();
        assert_eq!(lens, [(size, false), (size, true), (size, false), (size, true)]);
    }
}
