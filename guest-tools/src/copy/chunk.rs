//! What to do with each part of the source, derived from its extents. No I/O.

use nbd::wire::ExtentFlags;
use nbd_client::Extent;

/// How a chunk is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Read it and write it.
    Data,
    /// Make it zeroes.
    Zero,
    /// Write zeroes, because the destination has no other way.
    Fill,
}

/// A part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) kind: Kind,
}

/// Divides `at..end`, as far as the extents describe it, into chunks of whole blocks of `align`
/// bytes. Also returns where the last chunk ends: at `end` or at the end of a block, and always
/// after `at`.
///
/// Only an extent that reads as zeroes becomes zeroes, because a hole alone may read as anything. A
/// block that is partly data is data.
pub(super) fn chunks((at, end): (u64, u64), extents: &[Extent], align: u64) -> (Vec<Chunk>, u64) {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut add = |at: u64, to: u64, kind| {
        if to <= at {
            return;
        }
        match chunks.last_mut() {
            Some(last) if last.kind == kind => last.len = to - last.at,
            _ => chunks.push(Chunk { at, len: to - at, kind }),
        }
    };
    let mut known = at;
    let mut done = at;
    // Where the zeroes that reach up to `known` begin.
    let mut zeroes = at;
    for extent in extents {
        let to = extent.at.saturating_add(extent.len).min(end);
        if to <= known {
            continue;
        }
        known = to;
        if !extent.flags.contains(ExtentFlags::ZERO) {
            zeroes = to;
            continue;
        }
        let first = zeroes.next_multiple_of(align).max(done);
        let last = if to == end { end } else { to - to % align };
        if first < last {
            add(done, first, Kind::Data);
            add(first, last, Kind::Zero);
            done = last;
        }
    }
    // The remaining blocks are data. The last of them may be known only in part.
    let whole = if known == end { end } else { known - known % align };
    let to = if whole > at { whole } else { at.saturating_add(align).min(end) };
    add(done, to, Kind::Data);
    (chunks, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(range: (u64, u64), align: u64, extents: &[(u64, u32)]) -> (String, u64) {
        let mut at = range.0;
        let extents: Vec<_> = extents
            .iter()
            .map(|&(len, flags)| {
                let extent = Extent { at, len, flags: ExtentFlags::from_bits_retain(flags) };
                at += len;
                extent
            })
            .collect();
        let (chunks, to) = chunks(range, &extents, align);
        let mut next = range.0;
        let text = chunks.iter().map(|chunk| {
            assert_eq!(chunk.at, next, "no gaps");
            next += chunk.len;
            format!("{:?} {}", chunk.kind, chunk.len)
        });
        let text = text.collect::<Vec<_>>().join(", ");
        assert_eq!(next, to);
        (text, to)
    }

    #[test]
    fn extents_become_chunks_in_whole_blocks() {
        let all = (0, 4096);
        for (range, align, extents, text, to) in [
            (all, 1, &[(4096, 0)][..], "Data 4096", 4096),
            (all, 1, &[(4096, 3)], "Zero 4096", 4096),
            // A hole that does not read as zeroes is data.
            (all, 1, &[(4096, 1)], "Data 4096", 4096),
            (all, 1, &[(100, 0), (200, 2), (9999, 1)], "Data 100, Zero 200, Data 3796", 4096),
            (all, 512, &[(100, 0), (3000, 3), (9999, 0)], "Data 512, Zero 2560, Data 1024", 4096),
            (all, 512, &[(100, 3), (100, 0), (312, 3), (3584, 0)], "Data 4096", 4096),
            // Two zero extents that meet within a block become one.
            (all, 512, &[(700, 3), (700, 2), (9999, 0)], "Zero 1024, Data 3072", 4096),
            // Fewer extents than were asked for.
            (all, 1, &[(100, 0)], "Data 100", 100),
            (all, 512, &[(1000, 3)], "Zero 512", 512),
            (all, 512, &[(1000, 0)], "Data 512", 512),
            (all, 512, &[(100, 3)], "Data 512", 512),
            (all, 512, &[], "Data 512", 512),
            // The end of a disk that is not a whole number of blocks.
            ((512, 1000), 512, &[(100, 0), (388, 3)], "Data 488", 1000),
            ((512, 1000), 512, &[(488, 3)], "Zero 488", 1000),
        ] {
            assert_eq!(cut(range, align, extents), (text.to_owned(), to), "{extents:?} {align}");
        }
    }

    #[test]
    fn every_byte_of_data_is_in_a_chunk_of_data() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..2000 {
            let align = 1 << random(10);
            let at = align * random(5);
            let end = at + 1 + random(9000);
            let mut extents = Vec::new();
            let mut next = at;
            for _ in 0..random(8) {
                let len = 1 + random(2000);
                let flags = ExtentFlags::from_bits_retain(u32::try_from(random(4)).unwrap());
                extents.push(Extent { at: next, len, flags });
                next += len;
            }
            let (found, to) = chunks((at, end), &extents, align);
            assert!(to > at && to <= end && (to == end || to.is_multiple_of(align)));
            let mut next = at;
            for chunk in &found {
                assert_eq!(chunk.at, next);
                assert!(chunk.at.is_multiple_of(align));
                next += chunk.len;
                if chunk.kind == Kind::Zero {
                    let zero = |byte: u64| {
                        extents.iter().any(|extent| {
                            (extent.at..extent.at + extent.len).contains(&byte)
                                && extent.flags.contains(ExtentFlags::ZERO)
                        })
                    };
                    assert!((chunk.at..next).all(zero), "{chunk:?} {extents:?}");
                }
            }
            assert_eq!(next, to);
        }
    }
}
