//! Output that goes out in the order of its offsets, whatever the order in which it comes.

use std::collections::BTreeMap;

use super::{error::CopyError, local::Local};

/// Zeroes that are written at once, bytes.
const ZEROES: usize = 64 << 10;

/// A piece that waits for those before it.
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    Zeroes(u64),
}

/// What has not gone out.
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

    /// In the pieces that wait.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a piece, and writes all whose turn it is. `spare` gets the rooms that are free again.
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
