//! Ranges and buffers in pieces: one request of a client may be several requests to the remote
//! server.

use std::sync::Arc;

use super::reader::Got;
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

/// Appends what was read to the answer. Holes stay holes.
pub(super) fn put_pieces(got: Got, at: u64, answer: &mut Answer) {
    let Got { bytes, mut holes, .. } = got;
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

/// Cuts the extents to `len` bytes, because the last one may reach beyond the requested range.
pub(super) fn cut(extents: &mut Vec<Extent>, len: u64) {
    let mut left = len;
    extents.retain_mut(|extent| {
        extent.len = extent.len.min(left);
        left -= extent.len;
        extent.len > 0
    });
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
        let got = Got {
            bytes: b"ab\0\0cd\0\0".to_vec(),
            holes: vec![(106, 2), (102, 2)],
            extents: Vec::new(),
        };
        let mut answer = Answer::default();
        put_pieces(got, 100, &mut answer);
        let lens: Vec<_> = answer
            .pieces
            .iter()
            .map(|piece| (piece.len(), matches!(piece, Piece::Hole(_))))
            .collect();
        assert_eq!(lens, [(2, false), (2, true), (2, false), (2, true)]);
    }
}
