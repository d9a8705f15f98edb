//! Several disks in a row, served as one. A request that crosses a border is cut there.
//!
//! The plugin `split` makes it of files.

use std::ops::Range;

use super::{
    Answer, Data, Disk, DiskError, DiskInfo, Identity, Kind, Op, Progress, Turn, Verb, execute_all,
};

/// nbdkit-split-plugin(1).
#[derive(Debug)]
pub struct SplitDisk<D> {
    parts: Vec<Part<D>>,
}

#[derive(Debug)]
struct Part<D> {
    range: Range<u64>,
    disk: D,
}

impl<D: Disk> SplitDisk<D> {
    /// The disks in this order. `None` if they have more than 2^63 - 1 bytes together.
    pub fn new(disks: Vec<D>) -> Option<Self> {
        let mut end = 0_u64;
        let mut parts = Vec::with_capacity(disks.len());
        for disk in disks {
            let start = end;
            end = start.checked_add(disk.info().size).filter(|end| i64::try_from(*end).is_ok())?;
            // A part without bytes never gets a request.
            if start < end {
                parts.push(Part { range: start..end, disk });
            }
        }
        Some(Self { parts })
    }

    /// The parts that overlap `range`, each with its share in offsets of that part.
    fn shares(&self, at: u64, len: u64) -> impl Iterator<Item = (&D, Range<u64>)> {
        let end = at + len;
        let first = self.parts.partition_point(|part| part.range.end <= at);
        self.parts[first..].iter().take_while(move |part| part.range.start < end).map(move |part| {
            let Range { start, end: part_end } = part.range;
            (&part.disk, at.max(start) - start..end.min(part_end) - start)
        })
    }
}

/// The request `op` for `share` of a part, with the payload from `done` on.
fn on_part<'a>(op: &Op<'_>, bytes: &'a [u8], done: u64, share: &Range<u64>) -> Op<'a> {
    let at = share.start;
    let len = share.end - share.start;
    match *op {
        // A share of a length of 32 bits fits into 32 bits.
        Op::Read { .. } => Op::Read { at, len: u32::try_from(len).unwrap_or(u32::MAX) },
        Op::Write { fua, .. } => {
            let from = usize::try_from(done).unwrap_or(usize::MAX);
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            Op::Write { at, data: Data::Bytes(&bytes[from..from + len]), fua }
        }
        Op::Flush => Op::Flush,
        Op::Settle => Op::Settle,
        Op::Trim { fua, .. } => Op::Trim { at, len, fua },
        Op::Zero { fua, may_trim, fast, .. } => Op::Zero { at, len, fua, may_trim, fast },
        Op::Cache { .. } => Op::Cache { at, len },
        Op::Extents { one, .. } => Op::Extents { at, len, one },
    }
}

impl<D: Disk> Disk for SplitDisk<D> {
    fn info(&self) -> DiskInfo {
        let mut all = DiskInfo::plain(0, Identity::of("split", &[]));
        // Only what every part supports is offered.
        for info in self.parts.iter().map(|part| part.disk.info()) {
            all.size += info.size;
            let both = all.identity.zip(info.identity);
            all.identity = both.map(|(all, part)| all.and_disk(part).and("", &[info.size]));
            all.read_only |= info.read_only;
            all.can_fua &= info.can_fua;
            all.can_zero &= info.can_zero;
            all.can_trim &= info.can_trim;
            all.can_fast_zero &= info.can_fast_zero;
            all.can_cache &= info.can_cache;
            all.can_extents &= info.can_extents;
            all.multi_conn &= info.multi_conn;
            all.ephemeral |= info.ephemeral;
            all.rotational |= info.rotational;
            all.block_preferred = all.block_preferred.max(info.block_preferred);
            all.write_cutoff = all.write_cutoff.min(info.write_cutoff);
        }
        all
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        let (at, len) = op.range();
        let mut shares = self.shares(at, len);
        match (&*op, shares.next(), shares.next()) {
            (Op::Read { .. } | Op::Cache { .. }, Some((disk, share)), None)
            | (Op::Extents { .. }, Some((disk, share)), _) => {
                disk.try_execute(&mut on_part(op, &[], 0, &share), answer)
            }
            // Writes to files may block anyway.
            _ => Ok(Turn::WouldBlock),
        }
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let (at, len) = op.range();
        if op.verb() == Verb::Flush {
            // Flush each part, even if another fails: the others may succeed.
            let flush = |part: &Part<D>| execute_all(&part.disk, op, answer);
            let flushed: Vec<_> = self.parts.iter().map(flush).collect();
            return flushed.into_iter().collect::<Result<(), _>>().map(|()| Progress::Done);
        }
        // It is refused before anything has changed, or not at all.
        if matches!(op, Op::Zero { fast: true, .. }) && self.shares(at, len).nth(1).is_some() {
            return Err(DiskError::new(Kind::Unsupported, op.verb(), (at, len)));
        }
        let bytes = op.copied_data()?;
        let mut done = 0;
        for (disk, share) in self.shares(at, len) {
            let progress = disk
                .execute(&mut on_part(op, &bytes, done, &share), answer)
                .map_err(|error| DiskError { at: error.at - share.start + at + done, ..error })?;
            if let Progress::Until(_) = progress {
                return Ok(progress.after(done));
            }
            done += share.end - share.start;
            // An answer may cover less than the range.
            if matches!(op, Op::Extents { .. }) {
                break;
            }
        }
        Ok(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        MemoryDisk,
        testing::{
            Medium, bytes_of, extents,
            model::{self, Host, check},
            read, run, trim, write, zero,
        },
    };

    /// Two files, each on its own medium.
    struct Parts([Medium; 2]);

    impl Host for Parts {
        fn open(&self) -> Box<dyn Disk> {
            Box::new(SplitDisk::new(self.0.each_ref().map(Medium::open).into()).unwrap())
        }

        fn fail(&self, what: u8) {
            self.0[usize::from(what / 4 % 2)].fail(what);
        }

        fn recover(&self) {
            self.0.iter().for_each(Medium::recover);
        }

        fn losses(&self) -> u64 {
            self.0.iter().map(Medium::losses).sum()
        }

        fn durable(&self) -> Vec<Option<u8>> {
            self.0.iter().flat_map(Medium::durable).collect()
        }
    }

    proptest! {
        #[test]
        fn a_loss_of_a_part_is_reported(steps in prop::collection::vec(any::<[u8; 4]>(), 1..60)) {
            check(&Parts([Medium::of(1), Medium::of(model::BLOCKS - 1)]), &steps);
        }
    }

    /// Disks of 10, 0, 5000 and 100000 bytes.
    fn disk() -> SplitDisk<MemoryDisk> {
        SplitDisk::new([10, 0, 5000, 100_000].map(MemoryDisk::new).into()).unwrap()
    }

    #[test]
    fn requests_are_cut_at_the_borders() {
        let disk = disk();
        assert_eq!(disk.info().size, 105_010);
        let bytes: Vec<u8> = (0..105_010_u32).map(|i| i.to_le_bytes()[0] | 1).collect();
        write(&disk, 0, &bytes);
        assert_eq!(bytes_of(&read(&disk, 0, 105_010)), bytes);
        for at in [0, 9, 10, 5005, 5009, 5010] {
            let from = usize::try_from(at).unwrap();
            assert_eq!(bytes_of(&read(&disk, at, 50)), bytes[from..from + 50], "{at}");
        }
        zero(&disk, 5, 5010, true);
        trim(&disk, 5005, 10);
        run(&disk, &mut Op::Flush).unwrap();
        let read_back = bytes_of(&read(&disk, 0, 6000));
        assert_eq!(read_back[..5], bytes[..5]);
        assert!(read_back[5..5015].iter().all(|byte| *byte == 0));
        assert_eq!(read_back[5015..], bytes[5015..6000]);
    }

    #[test]
    fn extents_end_at_a_border_and_continue_after_it() {
        let disk = disk();
        write(&disk, 0, &[1; 10]);
        let (mut at, mut seen) = (0, Vec::new());
        while at < 105_010 {
            for extent in extents(&disk, at, 105_010 - at, false) {
                at += extent.len;
                seen.push((at, extent.hole));
            }
        }
        assert_eq!(seen, [(10, false), (5010, true), (105_010, true)]);
    }

    #[test]
    fn a_quick_zero_over_a_border_is_refused_with_nothing_changed() {
        let disk = disk();
        write(&disk, 0, &[1; 100]);
        let mut op = Op::Zero { at: 0, len: 100, fua: false, may_trim: true, fast: true };
        assert_eq!(run(&disk, &mut op).unwrap_err().kind, Kind::Unsupported);
        assert_eq!(bytes_of(&read(&disk, 0, 100)), [1; 100]);
    }
}
