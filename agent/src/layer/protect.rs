//! Protects parts of a disk from changes: nbdkit-protect-filter(1).
//!
//! A write that changes no protected byte succeeds, because clients write whole blocks back.

use std::{ops::Range, sync::Arc};

use super::{Entry, window};
use crate::{params::Key, units::parse_number};
use disk::{
    Answer, Data, Disk, DiskError, Kind, Layer, Op, PIECE, Progress, execute_all, in_pieces,
};

/// Bytes that are compared at once.
const CHUNK: u64 = 1 << 20;

pub(super) const ENTRY: Entry = Entry {
    name: "protect",
    about: "Protect parts of the disk from changes",
    keys: &[Key::many("protect", "[~]START-END", "Bytes from START to END; ~: all but these")],
    build: |params, stack, _| {
        let mut ranges = Vec::new();
        for text in params.values("protect") {
            let range = parse(text);
            ranges.extend(range.map_err(|why| {
                params.wrong("protect", text, "a range, such as 0-511 or ~4096-", why)
            })?);
        }
        let ranges: Arc<[Range<u64>]> = merged(ranges).into();
        Ok(stack.each(move |below, _| Ok(Arc::new(Protect { below, ranges: Arc::clone(&ranges) }))))
    },
};

/// The protected bytes. A missing START is 0, and a missing END is beyond any disk.
fn parse(text: &str) -> Result<Vec<Range<u64>>, &'static str> {
    let (all_but, range) = text.strip_prefix('~').map_or((false, text), |rest| (true, rest));
    let (start, end) = range.split_once('-').ok_or("write START-END")?;
    let number = |text: &str, default| match text {
        "" => Ok(default),
        _ => parse_number(text).map_err(|_| "START and END are whole numbers"),
    };
    // END is the last byte of the range.
    let last: u64 = number(end, u64::MAX - 1)?;
    let range = number(start, 0)?..last.checked_add(1).ok_or("END is too big")?;
    if range.is_empty() {
        return Err("START is after END");
    }
    Ok(if all_but { vec![0..range.start, range.end..u64::MAX] } else { Vec::from([range]) })
}

/// The ranges in order, with those that touch joined.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[derive(Debug)]
struct Protect {
    below: Arc<dyn Disk>,
    ranges: Arc<[Range<u64>]>,
}

impl Protect {
    /// The parts of a range. True: the part is protected.
    fn parts(&self, at: u64, len: u64) -> Vec<(Range<u64>, bool)> {
        let end = at + len;
        let mut parts = Vec::new();
        let mut from = at;
        for range in self.ranges.iter().filter(|range| range.start < end && range.end > at) {
            if from < range.start {
                parts.push((from..range.start, false));
            }
            from = range.end.min(end);
            parts.push((range.start.max(at)..from, true));
        }
        if from < end {
            parts.push((from..end, false));
        }
        parts
    }

    fn touches(&self, op: &Op<'_>) -> bool {
        let (at, len) = op.range();
        matches!(op, Op::Write { .. } | Op::Trim { .. } | Op::Zero { .. })
            && self.parts(at, len).iter().any(|(_, protected)| *protected)
    }

    /// Checks that the request would not change the bytes of `part`. `data` is the payload of a write.
    fn check(&self, op: &Op<'_>, part: &Range<u64>, data: &[u8]) -> Result<(), DiskError> {
        for from in (part.start..part.end).step_by(usize::try_from(CHUNK).unwrap_or(1)) {
            let len = u32::try_from(CHUNK.min(part.end - from)).unwrap_or(u32::MAX);
            let there = window::read(&*self.below, from, len)?;
            let same = if matches!(op, Op::Write { .. }) {
                let start = usize::try_from(from - op.range().0).unwrap_or(usize::MAX);
                data[start..start + there.len()] == there[..]
            } else {
                there.iter().all(|byte| *byte == 0)
            };
            if !same {
                return Err(DiskError::new(Kind::Denied, op.verb(), (from, len.into())));
            }
        }
        Ok(())
    }

    /// Does the first part of a trim or zero that is too long to be checked as a whole.
    fn perform_first(
        &self,
        op: &Op<'_>,
        parts: &[(Range<u64>, bool)],
        answer: &mut Answer,
    ) -> Result<Progress, DiskError> {
        let Some((part, protected)) = parts.first() else { return Ok(Progress::Done) };
        let len = part.end - part.start;
        let progress = if *protected {
            in_pieces(part.clone(), CHUNK, |piece| self.check(op, &piece, &[]))?
        } else {
            let mut first = match *op {
                Op::Trim { at, fua, .. } => Op::Trim { at, len, fua },
                Op::Zero { at, fua, may_trim, fast, .. } => {
                    Op::Zero { at, len, fua, may_trim, fast }
                }
                _ => return Err(DiskError::new(Kind::Invalid, op.verb(), op.range())),
            };
            self.below.execute(&mut first, answer)?
        };
        Ok(if progress == Progress::Done && parts.len() > 1 {
            Progress::Until(len)
        } else {
            progress
        })
    }
}

impl Layer for Protect {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        if !self.touches(op) {
            return self.below.execute(op, answer);
        }
        let data = op.copied_data()?;
        let (at, len) = op.range();
        let parts = self.parts(at, len);
        // A write is done as a whole, because its payload is in memory already.
        if len > PIECE && !matches!(op, Op::Write { .. }) {
            return self.perform_first(op, &parts, answer);
        }
        // Check all protected parts before anything is written.
        for (part, _) in parts.iter().filter(|(_, protected)| *protected) {
            self.check(op, part, &data)?;
        }
        for (part, _) in parts.iter().filter(|(_, protected)| !protected) {
            let (from, len) = (part.start, part.end - part.start);
            let mut op = match *op {
                Op::Write { fua, .. } => {
                    let index = |byte: u64| usize::try_from(byte - at).unwrap_or(usize::MAX);
                    let data = Data::Bytes(&data[index(part.start)..index(part.end)]);
                    Op::Write { at: from, data, fua }
                }
                Op::Trim { fua, .. } => Op::Trim { at: from, len, fua },
                Op::Zero { fua, may_trim, fast, .. } => {
                    Op::Zero { at: from, len, fua, may_trim, fast }
                }
                _ => continue,
            };
            execute_all(&*self.below, &mut op, answer)?;
        }
        Ok(Progress::Done)
    }

    fn passes(&self, op: &Op<'_>) -> bool {
        !self.touches(op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{
        MemoryDisk,
        testing::{bytes_of, read, run, try_write, write, zero},
    };

    #[test]
    fn ranges_are_read_as_nbdkit_reads_them() {
        let one = |range: Range<u64>| Ok(Vec::from([range]));
        for (text, ranges) in [
            ("0-511", one(0..512)),
            ("0x10-020", one(16..17)),
            ("100-", one(100..u64::MAX)),
            ("-99", one(0..100)),
            ("-", one(0..u64::MAX)),
            ("~512-1023", Ok(vec![0..512, 1024..u64::MAX])),
            ("5-4", Err("START is after END")),
            ("5", Err("write START-END")),
            ("a-b", Err("START and END are whole numbers")),
            ("0-18446744073709551615", Err("END is too big")),
        ] {
            assert_eq!(parse(text), ranges, "{text}");
        }
        assert_eq!(merged(vec![5..7, 0..0, 1..3, 3..6, 9..10]), [1..7, 9..10]);
    }

    #[test]
    fn protected_bytes_stay_and_the_rest_is_written() {
        let below = Arc::new(MemoryDisk::new(1000));
        write(&*below, 0, &[7; 1000]);
        let ranges = Arc::from([100..200, 500..501].as_slice());
        let disk = Protect { below, ranges };
        write(&disk, 0, &[1; 100]);
        for (at, len) in [(99, 2), (100, 100), (199, 2), (0, 1000)] {
            let error = try_write(&disk, at, &vec![2; len], false).unwrap_err();
            assert_eq!(error.kind, Kind::Denied, "{at}");
        }
        assert_eq!(bytes_of(&read(&disk, 99, 1)), [1], "a refused write changes nothing");
        // A client that writes whole blocks back does this.
        let mut all = bytes_of(&read(&disk, 0, 1000));
        all[400] = 9;
        write(&disk, 0, &all);
        assert_eq!(bytes_of(&read(&disk, 0, 1000)), all);
        let mut op = Op::Zero { at: 150, len: 10, fua: false, may_trim: true, fast: false };
        assert_eq!(run(&disk, &mut op).unwrap_err().kind, Kind::Denied);
        let mut op = Op::Trim { at: 450, len: 100, fua: false };
        assert_eq!(run(&disk, &mut op).unwrap_err().kind, Kind::Denied);
        zero(&disk, 501, 499, true);
        assert_eq!(bytes_of(&read(&disk, 500, 2)), [7, 0]);
    }

    #[test]
    fn a_write_that_is_longer_than_a_piece_is_compared_too() {
        let len = usize::try_from(PIECE).unwrap() + 1000;
        let below = Arc::new(MemoryDisk::new(1 << 30));
        let disk = Protect { below, ranges: Arc::from([100..200, 300..301].as_slice()) };
        let mut bytes = vec![0; len];
        bytes[len - 1] = 3;
        write(&disk, 0, &bytes);
        assert_eq!(bytes_of(&read(&disk, PIECE + 999, 1)), [3]);
        bytes[150] = 1;
        assert_eq!(try_write(&disk, 0, &bytes, false).unwrap_err().kind, Kind::Denied);
    }
}
