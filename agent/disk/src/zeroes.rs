//! Finds zeroes, and puts them into an answer as holes, which are not sent. The disks use it.

use std::sync::Arc;

use super::{Answer, Piece, Slice};

/// The unit in bytes in which zeroes are looked for: the usual block of a filesystem.
const BLOCK: usize = 4096;

/// Whether `bytes` are all zero. Returns quickly if they are not.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (lines, rest) = bytes.as_chunks::<64>();
    let zero = |line: &[u8]| line.iter().fold(0, |all, byte| all | byte) == 0;
    lines.iter().all(|line| zero(line)) && zero(rest)
}

impl Answer {
    /// Adds a hole of `len` bytes, merged with a hole before it. Adds nothing if `len` is 0.
    pub(super) fn push_hole(&mut self, len: u64) {
        match self.pieces.last_mut() {
            Some(Piece::Hole(before)) => *before += len,
            _ if len == 0 => {}
            _ => self.pieces.push(Piece::Hole(len)),
        }
    }

    /// Adds `bytes[from..]`, which begin at offset `at` of the disk. Whole blocks of zeroes become holes, which are not
    /// sent to the client.
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
