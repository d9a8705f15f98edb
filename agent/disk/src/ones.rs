//! A disk whose bytes all have the same value, and that discards what is written, for tests.
//!
//! The plugin `ones` makes it. It never blocks.

use std::sync::Arc;

use super::{
    Answer, Disk, DiskError, DiskInfo, Extent, Identity, Op, PAGE, Page, Piece, Progress, Slice,
    Turn,
};

/// nbdkit-ones-plugin(1).
#[derive(Debug)]
pub struct OnesDisk {
    size: u64,
    byte: u8,
    /// The page that every read gets.
    page: Arc<Page>,
}

impl OnesDisk {
    /// A disk of `size` bytes, at most 2^63 - 1, each with the value `byte`. `None` if there is no memory.
    pub fn new(size: u64, byte: u8) -> Option<Self> {
        Some(Self { size, byte, page: Arc::new(Page::with(0, &[byte; PAGE])?) })
    }
}

impl Disk for OnesDisk {
    fn info(&self) -> DiskInfo {
        let identity = Identity::of("ones", &[self.size, self.byte.into()]);
        DiskInfo {
            can_extents: false,
            can_fast_zero: false,
            ..DiskInfo::plain(self.size, identity)
        }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match *op {
            Op::Read { len, .. } => {
                let mut left = len as usize;
                while left > 0 {
                    let part = left.min(PAGE);
                    let slice = Slice::Lent(Arc::clone(&self.page), 0..part);
                    answer.pieces.push(Piece::Bytes(slice));
                    left -= part;
                }
            }
            Op::Extents { len, .. } => {
                answer.extents.push(Extent { len, hole: false, zero: false });
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
    use crate::testing::{bytes_of, read, write};

    #[test]
    fn written_bytes_read_as_the_byte() {
        let disk = OnesDisk::new(1 << 40, 0xa5).unwrap();
        write(&disk, 1, b"gone");
        assert_eq!(bytes_of(&read(&disk, 0, 100_000)), [0xa5; 100_000]);
        assert_eq!(bytes_of(&read(&disk, (1 << 40) - 1, 1)), [0xa5]);
    }
}
