//! Zeroes: knowing them, and saying them without sending them. The disks use it.

use std::sync::Arc;

use super::{Answer, Piece, Slice};

/// Zeroes are looked for in blocks of so many bytes of the disk: the usual block of a filesystem.
const BLOCK: usize = 4096;

/// Whether `bytes` are all zero. Quick to say no.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (lines, rest) = bytes.as_chunks::<64>();
    let zero = |line: &[u8]| line.iter().fold(0, |all, byte| all | byte) == 0;
    lines.iter().all(|line| zero(line)) && zero(rest)
}

impl Answer {
    /// A hole of `len` bytes (none if 0), made one with a hole before it.
    pub(super) fn push_hole(&mut self, len: u64) {
        match self.pieces.last_mut() {
            Some(Piece::Hole(before)) => *before += len,
            _ if len == 0 => {}
            _ => self.pieces.push(Piece::Hole(len)),
        }
    }

    /// `bytes[from..]`, which stand at offset `at` of the disk. Whole blocks of zeroes in it become
    /// holes: a reader is told of them and not sent them.
    pub(super) fn push_scanned(&mut self, at: u64, bytes: Vec<u8>, from: usize) {
        let bytes = Arc::new(bytes);
        let (mut start, mut here) = (from, from);
        while here < bytes.len() {
            let offset = at + (here - from) as u64;
            let to_edge = BLOCK - usize::try_from(offset % BLOCK as u64).expect("below BLOCK");
            let block = here..bytes.len().min(here + to_edge);
            if is_zero(&bytes[block.clone()]) {
                self.push_owned(&bytes, start, block.start);
                self.push_hole(block.len() as u64);
                start = block.end;
            }
            here = block.end;
        }
        self.push_owned(&bytes, start, bytes.len());
    }

    fn push_owned(&mut self, bytes: &Arc<Vec<u8>>, from: usize, to: usize) {
        if from < to {
            self.pieces.push(Piece::Bytes(Slice::Owned(Arc::clone(bytes), from..to)));
        }
    }
}
