//! A read-only disk in which every 8 bytes are their own offset, so that a client can check what it reads.
//!
//! The plugin `pattern` makes it. It never blocks.

use super::{
    Answer, Disk, DiskError, DiskInfo, Extent, Identity, Kind, NoMemory, Op, Piece, Progress, Turn,
    room,
};

/// Most bytes that are made on the connection's task. More would hold it for too long.
const AT_ONCE: u32 = 1 << 20;

/// nbdkit-pattern-plugin(1): the offset as a 64-bit big-endian number, every 8 bytes.
#[derive(Debug)]
pub struct PatternDisk {
    size: u64,
}

impl PatternDisk {
    /// A disk of `size` bytes, at most 2^63 - 1.
    pub fn new(size: u64) -> Self {
        Self { size }
    }
}

/// The pattern's bytes from `at` on.
fn pattern(at: u64, len: usize) -> Result<Vec<u8>, NoMemory> {
    let start = at - at % 8;
    let skip = usize::try_from(at - start).expect("below 8");
    let mut bytes = room(skip + len + 8)?;
    for word in (start..).step_by(8).take((skip + len).div_ceil(8)) {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.truncate(skip + len);
    bytes.drain(..skip);
    Ok(bytes)
}

impl Disk for PatternDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            read_only: true,
            can_trim: false,
            can_fast_zero: false,
            can_extents: false,
            ..DiskInfo::plain(self.size, Identity::of("pattern", &[self.size]))
        }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        if matches!(op, Op::Read { len, .. } if *len > AT_ONCE) {
            return Ok(Turn::WouldBlock);
        }
        self.execute(op, answer).map(|_| Turn::Done)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        match *op {
            Op::Read { at, len } => {
                let bytes = pattern(at, len as usize);
                let bytes = bytes.map_err(|lack| lack.of(op.verb(), op.range()))?;
                answer.pieces.push(Piece::Bytes(bytes.into()));
            }
            Op::Extents { len, .. } => {
                answer.extents.push(Extent { len, hole: false, zero: false });
            }
            Op::Write { .. } | Op::Trim { .. } | Op::Zero { .. } => {
                return Err(DiskError::new(Kind::Denied, op.verb(), op.range()));
            }
            Op::Flush | Op::Settle | Op::Cache { .. } => {}
        }
        Ok(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bytes_of, read, try_write};

    #[test]
    fn every_eight_bytes_are_their_offset() {
        let size = i64::MAX as u64;
        let disk = PatternDisk::new(size);
        let byte = |at: u64| (at & !7).to_be_bytes()[usize::try_from(at % 8).unwrap()];
        for (at, len) in [(0, 64), (0x28, 8), (3, 2), (5, 9), (size - 13, 13), (7, AT_ONCE + 1)] {
            let wanted: Vec<u8> = (at..at + u64::from(len)).map(byte).collect();
            assert!(bytes_of(&read(&disk, at, len)) == wanted, "{len} bytes at {at}");
        }
    }

    #[test]
    fn a_write_is_refused() {
        let disk = PatternDisk::new(100);
        assert!(disk.info().read_only);
        assert_eq!(try_write(&disk, 0, b"x", false).unwrap_err().kind, Kind::Denied);
    }
}
