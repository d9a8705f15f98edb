//! A disk that reads as zeroes and has no space left, for tests of clients.
//!
//! The plugin `full` makes it. It never blocks and holds no memory.

use super::{Answer, Disk, DiskError, DiskInfo, Extent, Identity, Kind, Op, Progress, Turn};

/// nbdkit-full-plugin(1): writes, zeroes and trims fail with `Kind::NoSpace`.
#[derive(Debug)]
pub struct FullDisk {
    size: u64,
}

impl FullDisk {
    /// A disk of `size` bytes, at most 2^63 - 1.
    pub fn new(size: u64) -> Self {
        Self { size }
    }
}

impl Disk for FullDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo::plain(self.size, Identity::of("full", &[self.size]))
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match *op {
            Op::Read { len, .. } => answer.push_hole(u64::from(len)),
            Op::Extents { len, .. } => {
                answer.extents.push(Extent { len, hole: true, zero: true });
            }
            Op::Write { .. } | Op::Trim { .. } | Op::Zero { .. } => {
                return Err(DiskError::new(Kind::NoSpace, op.verb(), op.range()));
            }
            Op::Flush | Op::Settle | Op::Cache { .. } => {}
        }
        Ok(Turn::Done)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        self.try_execute(op, answer).map(|_| Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bytes_of, extents, read, run, try_write};

    #[test]
    fn reads_are_zeroes_and_changes_find_no_space() {
        let disk = FullDisk::new(1000);
        assert_eq!(bytes_of(&read(&disk, 0, 1000)), [0; 1000]);
        assert!(extents(&disk, 0, 1000, true)[0].zero);
        run(&disk, &mut Op::Flush).unwrap();
        assert_eq!(try_write(&disk, 0, b"x", true).unwrap_err().kind, Kind::NoSpace);
        for mut op in [
            Op::Trim { at: 0, len: 9, fua: false },
            Op::Zero { at: 0, len: 9, fua: false, may_trim: true, fast: true },
        ] {
            assert_eq!(run(&disk, &mut op).unwrap_err().kind, Kind::NoSpace);
        }
    }
}
