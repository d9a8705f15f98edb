//! Finds zeroes in a piece that was read, and cuts the piece into runs of one kind. No I/O.

use std::ops::Range;

/// How many bytes to examine in one step.
const STEP: usize = 64;

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Data usually shows in its first bytes.
    let (steps, rest) = bytes.as_chunks::<STEP>();
    steps.iter().all(|step| {
        let (words, _) = step.as_chunks::<8>();
        words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
    }) && rest.iter().all(|&byte| byte == 0)
}

/// A part of a piece, and whether it is zeroes.
pub(super) type Run = (Range<usize>, bool);

/// Cuts `len` bytes at offset `at` into runs, at multiples of `unit` of the whole disk. `zero`
/// decides whether a part is zeroes.
pub(super) fn runs(
    at: u64,
    len: usize,
    unit: u64,
    mut zero: impl FnMut(Range<usize>) -> bool,
) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut from = 0;
    while from < len {
        let into = (at + from as u64) % unit;
        let step = usize::try_from(unit - into).unwrap_or(usize::MAX);
        let to = from.saturating_add(step).min(len);
        let kind = zero(from..to);
        match runs.last_mut() {
            Some((range, last)) if *last == kind => range.end = to,
            _ => runs.push((from..to, kind)),
        }
        from = to;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_found() {
        for len in [0, 1, 63, 64, 65, 512, 1000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn runs_are_cut_at_multiples_of_the_disk() {
        let mut bytes = [0; 30];
        let mut cut = |data: &[usize], at| {
            bytes.fill(0);
            for &place in data {
                bytes[place] = 1;
            }
            runs(at, bytes.len(), 8, |range| is_zero(&bytes[range]))
        };
        assert_eq!(cut(&[], 0), [(0..30, true)]);
        assert_eq!(cut(&[0, 29], 0), [(0..8, false), (8..24, true), (24..30, false)]);
        assert_eq!(cut(&[3], 5), [(0..3, true), (3..11, false), (11..30, true)]);
        assert_eq!(cut(&[0, 8, 16, 24], 0), [(0..30, false)]);
        assert!(runs(0, 0, 8, |_| true).is_empty());
    }
}
