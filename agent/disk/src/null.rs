//! A disk that reads as zeroes and discards what is written, for tests and measurements.
//!
//! The plugin `null` makes it. It never blocks and holds no memory.

use super::{Answer, Disk, DiskError, DiskInfo, Extent, Identity, Op, Progress, Turn};

/// nbdkit-null-plugin(1).
#[derive(Debug)]
pub struct NullDisk {
    size: u64,
}

impl NullDisk {
    /// A disk of `size` bytes, at most 2^63 - 1.
    pub fn new(size: u64) -> Self {
        Self { size }
    }
}

impl Disk for NullDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo::plain(self.size, Identity::of("null", &[self.size]))
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match *op {
            Op::Read { len, .. } => answer.push_hole(u64::from(len)),
            Op::Extents { len, .. } => {
                answer.extents.push(Extent { len, hole: true, zero: true });
            }
            Op::Write { .. }
            | Op::Flush
            | Op::Settle
            | Op::Trim { .. }
            | Op::Zero { .. }
            | Op::Cache { .. } => {}
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
    use crate::testing::{bytes_of, extents, read, run, trim, write, zero};

    #[test]
    fn written_bytes_read_as_a_hole() {
        let disk = NullDisk::new(1 << 40);
        write(&disk, 5, b"gone");
        trim(&disk, 0, 1 << 40);
        zero(&disk, 0, 1 << 40, false);
        run(&disk, &mut Op::Flush).unwrap();
        assert_eq!(bytes_of(&read(&disk, 0, 10)), [0; 10]);
        let hole = Extent { len: 1 << 39, hole: true, zero: true };
        assert_eq!(extents(&disk, 7, 1 << 39, false), [hole]);
    }
}
