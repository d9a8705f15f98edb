//! Makes a disk longer or shorter: nbdkit-truncate-filter(1).
//!
//! The added bytes read as zeroes, and nothing but zeroes can be written to them.

use std::sync::Arc;

use thiserror::Error;

use super::{Entry, refuse};
use crate::{
    params::{Key, Params},
    stack::BuildError,
};
use disk::{
    Answer, Data, Disk, DiskError, DiskInfo, Extent, Kind, Layer, Op, Piece, Progress, Turn, Verb,
};

pub(super) const ENTRY: Entry = Entry {
    name: "truncate",
    about: "Make the disk longer or shorter",
    keys: &[
        Key::once("truncate", "SIZE", "The size of the disk"),
        Key::once("round-up", "SIZE", "Make it longer, to a multiple of this"),
        Key::once("round-down", "SIZE", "Make it shorter, to a multiple of this"),
    ],
    build: |params, stack, _| {
        let wanted = Wanted::parse(params)?;
        Ok(stack.each(move |below, _| {
            let real = below.info().size;
            let size = wanted.size(real).ok_or_else(|| refuse(TooLong))?;
            Ok(Arc::new(Truncate { below, real, size }))
        }))
    },
};

#[derive(Debug, Error)]
#[error("filter truncate: the disk would have more than 2^63 - 1 bytes")]
struct TooLong;

#[derive(Debug, Clone, Copy)]
struct Wanted {
    size: Option<u64>,
    up: u64,
    down: u64,
}

impl Wanted {
    fn parse(params: &Params<'_>) -> Result<Self, BuildError> {
        let multiple = |key| match params.size(key)? {
            Some(0) => Err(params.wrong(key, "0", "a multiple", "write 1 or more")),
            given => Ok(given.unwrap_or(1)),
        };
        Ok(Self {
            size: params.size("truncate")?,
            up: multiple("round-up")?,
            down: multiple("round-down")?,
        })
    }

    /// The size that a disk of `real` bytes gets; `None` if it is over 2^63 - 1.
    fn size(self, real: u64) -> Option<u64> {
        let size = self.size.unwrap_or(real).checked_next_multiple_of(self.up)?;
        Some(size / self.down * self.down).filter(|size| i64::try_from(*size).is_ok())
    }
}

#[derive(Debug)]
struct Truncate {
    below: Arc<dyn Disk>,
    /// Size of the disk below, in bytes.
    real: u64,
    size: u64,
}

impl Truncate {
    /// How many bytes of a range exist below.
    fn real_part(&self, at: u64, len: u64) -> u64 {
        self.real.saturating_sub(at).min(len)
    }

    /// The part of a request that concerns bytes which exist below; `None` if there is none.
    fn shorten<'a>(&self, op: &Op<'_>, bytes: &'a [u8]) -> Option<Op<'a>> {
        let (at, len) = op.range();
        let len = self.real_part(at, len);
        if len == 0 {
            return None;
        }
        Some(match *op {
            // A part of a length of 32 bits fits in 32 bits.
            Op::Read { .. } => Op::Read { at, len: u32::try_from(len).unwrap_or(u32::MAX) },
            Op::Write { fua, .. } => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                Op::Write { at, data: Data::Bytes(&bytes[..len]), fua }
            }
            Op::Flush => Op::Flush,
            Op::Settle => Op::Settle,
            Op::Trim { fua, .. } => Op::Trim { at, len, fua },
            Op::Zero { fua, may_trim, fast, .. } => Op::Zero { at, len, fua, may_trim, fast },
            Op::Cache { .. } => Op::Cache { at, len },
            Op::Extents { one, .. } => Op::Extents { at, len, one },
        })
    }

    /// Answers for the bytes that do not exist below.
    fn complete(&self, op: &Op<'_>, answer: &mut Answer) {
        let (at, len) = op.range();
        let missing = len - self.real_part(at, len);
        match op {
            Op::Read { .. } => answer.pieces.push(Piece::Hole(missing)),
            // An answer may have fewer extents than asked for, but at least one.
            Op::Extents { .. } if answer.extents.is_empty() => {
                answer.extents.push(Extent { len: missing, hole: true, zero: true });
            }
            _ => {}
        }
    }

    /// Checks that only zeroes are written to bytes which do not exist below.
    fn check(&self, op: &Op<'_>, bytes: &[u8]) -> Result<(), DiskError> {
        let (at, len) = op.range();
        let real = usize::try_from(self.real_part(at, len)).unwrap_or(usize::MAX);
        if bytes.get(real..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0)) {
            return Err(DiskError::new(Kind::NoSpace, Verb::Write, (at, len)));
        }
        Ok(())
    }

    fn is_there(&self, op: &Op<'_>) -> bool {
        let (at, len) = op.range();
        op.verb() == Verb::Flush || self.real_part(at, len) == len
    }
}

impl Layer for Truncate {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        let below = self.below.info();
        let identity = below.identity.map(|all| all.and("truncate", &[self.size]));
        DiskInfo { size: self.size, identity, ..below }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        if self.is_there(op) {
            return self.below.try_execute(op, answer);
        }
        match op {
            Op::Read { .. } | Op::Extents { .. } => {
                let part = self.shorten(op, &[]);
                let turn =
                    part.map_or(Ok(Turn::Done), |mut op| self.below.try_execute(&mut op, answer));
                if turn.as_ref().is_ok_and(|turn| *turn == Turn::Done) {
                    self.complete(op, answer);
                }
                turn
            }
            // Everything else that reaches over the end may block.
            _ => Ok(Turn::WouldBlock),
        }
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        if self.is_there(op) {
            return self.below.execute(op, answer);
        }
        let bytes = op.copied_data()?;
        self.check(op, &bytes)?;
        if let Some(mut part) = self.shorten(op, &bytes) {
            let progress = self.below.execute(&mut part, answer)?;
            if let Progress::Until(_) = progress {
                return Ok(progress);
            }
        }
        self.complete(op, answer);
        Ok(Progress::Done)
    }

    fn passes(&self, op: &Op<'_>) -> bool {
        self.is_there(op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{
        MemoryDisk,
        testing::{bytes_of, extents, read, run, trim, try_write, write, zero},
    };

    fn disk(real: u64, size: u64) -> Truncate {
        Truncate { below: Arc::new(MemoryDisk::new(real)), real, size }
    }

    #[test]
    fn sizes_are_set_and_rounded() {
        let wanted = |size, up, down| Wanted { size, up, down };
        assert_eq!(wanted(None, 1, 1).size(1000), Some(1000));
        assert_eq!(wanted(Some(5), 1, 1).size(1000), Some(5));
        assert_eq!(wanted(None, 512, 1).size(1000), Some(1024));
        assert_eq!(wanted(None, 1, 512).size(1000), Some(512));
        assert_eq!(wanted(Some(1 << 62), 1 << 62, 1).size(1), Some(1 << 62));
        assert_eq!(wanted(None, i64::MAX as u64, 1).size(u64::MAX / 2 + 2), None);
    }

    #[test]
    fn added_bytes_read_as_zeroes_and_take_only_zeroes() {
        let disk = disk(1000, 3000);
        write(&disk, 990, &[1; 10]);
        assert_eq!(bytes_of(&read(&disk, 995, 10)), [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(bytes_of(&read(&disk, 2000, 1000)), [0; 1000]);
        write(&disk, 995, &[2, 2, 2, 2, 2, 0, 0]);
        assert_eq!(bytes_of(&read(&disk, 994, 8)), [1, 2, 2, 2, 2, 2, 0, 0]);
        for (at, len) in [(999, 2), (1000, 1), (2999, 1)] {
            let error = try_write(&disk, at, &[3; 2][..len], true).unwrap_err();
            assert_eq!(error.kind, Kind::NoSpace);
        }
        assert_eq!(bytes_of(&read(&disk, 999, 1)), [2], "nothing of it was written");
        write(&disk, 2990, &[0; 10]);
        zero(&disk, 996, 2004, false);
        trim(&disk, 990, 2010);
        run(&disk, &mut Op::Flush).unwrap();
        run(&disk, &mut Op::Cache { at: 0, len: 3000 }).unwrap();
        assert_eq!(bytes_of(&read(&disk, 0, 3000))[995..], [0; 2005]);
    }

    #[test]
    fn added_bytes_are_a_hole() {
        let disk = disk(65536, 1 << 20);
        write(&disk, 0, &[1; 65536]);
        let extent = |len, hole| Extent { len, hole, zero: hole };
        assert_eq!(extents(&disk, 0, 1 << 20, false)[0], extent(65536, false));
        assert_eq!(extents(&disk, 70_000, 1000, false), [extent(1000, true)]);
    }

    #[test]
    fn a_shorter_disk_is_the_beginning_of_it() {
        let disk = disk(3000, 1000);
        write(&disk, 0, &[7; 1000]);
        assert_eq!(bytes_of(&read(&disk, 0, 1000)), [7; 1000]);
        assert_eq!(Disk::info(&disk).size, 1000);
    }
}
