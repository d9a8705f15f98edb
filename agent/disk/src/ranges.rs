//! Cuts ranges of a disk's bytes. The disks use it.

use std::ops::Range;

/// Cuts `range` at the multiples of `unit`.
pub(super) fn cuts(range: Range<u64>, unit: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        (at < range.end).then(|| {
            let from = at;
            at = range.end.min((from / unit + 1) * unit);
            from..at
        })
    })
}

/// The part before the whole units of `range`, the whole units, and the part after them. If there is no whole unit, all
/// of it is the first part.
pub(super) fn whole(range: &Range<u64>, unit: u64) -> [Range<u64>; 3] {
    let first = range.start.div_ceil(unit) * unit;
    let last = range.end / unit * unit;
    if first < last {
        [range.start..first, first..last, last..range.end]
    } else {
        [range.clone(), range.end..range.end, range.end..range.end]
    }
}

/// The length of a range that fits into memory.
pub(super) fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("it lies in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_lie_at_the_units_edges() {
        let cut =
            |range, unit| cuts(range, unit).map(|cut| (cut.start, cut.end)).collect::<Vec<_>>();
        assert_eq!(cut(3..12, 4), [(3, 4), (4, 8), (8, 12)]);
        assert_eq!(cut(4..8, 4), [(4, 8)]);
        assert_eq!(cut(5..6, 4), [(5, 6)]);
        assert_eq!(cut(5..5, 4), []);
        let end = i64::MAX as u64;
        assert_eq!(cut(end - 1..end, 1 << 22), [(end - 1, end)]);
    }

    #[test]
    fn whole_units_stand_between_the_rest() {
        assert_eq!(whole(&(3..13), 4), [3..4, 4..12, 12..13]);
        assert_eq!(whole(&(4..8), 4), [4..4, 4..8, 8..8]);
        assert_eq!(whole(&(5..9), 4)[0], 5..9);
        assert!(whole(&(5..9), 4)[1].is_empty());
        assert_eq!(whole(&(5..9), 1), [5..5, 5..9, 9..9]);
    }
}
