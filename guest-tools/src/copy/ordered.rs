//! Output in the order of its offsets, even if the pieces arrive in another order.

use std::collections::BTreeMap;

use super::{error::CopyError, local::Local};

/// How many bytes of zeroes to write at once.
const ZEROES: usize = 64 << 10;

/// A piece that waits for earlier ones.
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    Zeroes(u64),
}

/// Pieces that have not been written.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    next: u64,
    waiting: BTreeMap<u64, Piece>,
    bytes: u64,
}

impl Ordered {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many bytes the waiting pieces take in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a piece, and writes all pieces whose turn it is. `spare` receives the buffers that are
    /// free again.
    pub(super) fn put(
        &mut self,
        at: u64,
        piece: Piece,
        local: &Local,
        spare: &mut Vec<Vec<u8>>,
    ) -> Result<(), CopyError> {
        if let Piece::Bytes(bytes) = &piece {
            self.bytes += bytes.len() as u64;
        }
        self.waiting.insert(at, piece);
        while let Some(piece) = self.waiting.remove(&self.next) {
            match piece {
                Piece::Bytes(bytes) => {
                    local.write(self.next, &bytes)?;
                    self.next += bytes.len() as u64;
                    self.bytes -= bytes.len() as u64;
                    spare.push(bytes);
                }
                Piece::Zeroes(len) => {
                    let end = self.next + len;
                    while self.next < end {
                        let n = usize::try_from(end - self.next).map_or(ZEROES, |n| n.min(ZEROES));
                        local.write(self.next, [0; ZEROES].get(..n).unwrap_or_default())?;
                        self.next += n as u64;
                    }
                }
            }
        }
        Ok(())
    }
}
