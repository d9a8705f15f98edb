//! Acknowledged changes that the server may still lose: for every byte changed since the last
//! flush, the change that was answered last.
//!
//! `relay` adds every answered change and removes what a flush has made durable. When the server
//! comes back, the remaining changes are sent again. No two pieces overlap, so their order does not
//! matter. No byte is set back to a value that a later change, perhaps a durable one, has replaced.
//! There is no socket and no clock here.

use std::{collections::BTreeMap, mem, sync::Arc};

use nbd::wire::CommandFlags;
use nbd_client::{Order, Verb};

/// About how many bytes a piece takes in addition to its data.
const PIECE: usize = 128;

/// The last change of a range.
#[derive(Debug, Clone)]
struct Piece {
    len: u64,
    /// How many changes were put before it, since the start.
    number: u64,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    /// The data of a write, from an index on. Pieces of the same write share it.
    Bytes(Arc<Vec<u8>>, usize),
    Zero(CommandFlags),
    Trim,
}

/// The changes, by offset.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    pieces: BTreeMap<u64, Piece>,
    /// Memory that the pieces take, in bytes.
    held: usize,
    number: u64,
}

impl Unflushed {
    /// The memory that the changes take, in bytes.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds an answered change that is not durable by itself.
    pub(super) fn put(&mut self, order: Order) {
        let Order { verb, at, len, bytes, .. } = order;
        self.cut(at, len);
        let what = match verb {
            Verb::Write { .. } => {
                self.held += bytes.len();
                What::Bytes(Arc::new(bytes), 0)
            }
            Verb::Zero(flags) => What::Zero(flags - CommandFlags::FUA - CommandFlags::FAST_ZERO),
            Verb::Trim { .. } => What::Trim,
            Verb::Read | Verb::ReadWhole | Verb::Flush | Verb::Cache | Verb::Extents { .. } => {
                return;
            }
        };
        self.number += 1;
        self.insert(at, Piece { len, number: self.number, what });
    }

    /// Removes changes of a range because a durable change of it was answered.
    pub(super) fn cut(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len);
        let before = self.pieces.range(..at).next_back();
        let reaching = before.filter(|(start, piece)| **start + piece.len > at);
        let first = reaching.map_or(at, |(&start, _)| start);
        let touched: Vec<u64> = self.pieces.range(first..end).map(|(&start, _)| start).collect();
        for start in touched {
            let Some(piece) = self.take(start) else { continue };
            let stop = start + piece.len;
            if start < at {
                self.insert(start, piece.part(0, at - start));
            }
            if stop > end {
                self.insert(end, piece.part(end - start, stop - end));
            }
            self.release(piece);
        }
    }

    /// Identifies the changes that were put until now.
    pub(super) const fn mark(&self) -> u64 {
        self.number
    }

    /// Removes the changes up to `mark`, after a flush that was sent at that mark has succeeded.
    pub(super) fn flushed(&mut self, mark: u64) {
        let pieces = mem::take(&mut self.pieces);
        for (at, piece) in pieces {
            if piece.number > mark {
                self.pieces.insert(at, piece);
            } else {
                self.held -= PIECE;
                self.release(piece);
            }
        }
    }

    /// Returns the first change at or after `from`, at most `longest` bytes of it, to be sent
    /// again.
    pub(super) fn again(&self, from: u64, longest: u64) -> Option<Order> {
        let inside = self.pieces.range(..from).next_back();
        let inside = inside.filter(|(start, piece)| **start + piece.len > from);
        let (&start, piece) = inside.or_else(|| self.pieces.range(from..).next())?;
        let at = from.max(start);
        let piece = piece.part(at - start, piece.len - (at - start));
        let len = piece.len.min(longest);
        Some(match &piece.what {
            What::Bytes(bytes, first) => {
                let end = first.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
                Order::write(at, bytes.get(*first..end).unwrap_or_default().to_vec(), false)
            }
            What::Zero(flags) => Order::bare(Verb::Zero(*flags), at, len),
            What::Trim => Order::bare(Verb::Trim { fua: false }, at, len),
        })
    }

    fn insert(&mut self, at: u64, piece: Piece) {
        self.held += PIECE;
        self.pieces.insert(at, piece);
    }

    fn take(&mut self, at: u64) -> Option<Piece> {
        let piece = self.pieces.remove(&at)?;
        self.held -= PIECE;
        Some(piece)
    }

    /// Drops a piece. The data is freed with the last piece that shares it.
    fn release(&mut self, piece: Piece) {
        if let What::Bytes(bytes, _) = piece.what
            && let Some(bytes) = Arc::into_inner(bytes)
        {
            self.held -= bytes.len();
        }
    }
}

impl Piece {
    fn part(&self, from: u64, len: u64) -> Self {
        let what = match &self.what {
            What::Bytes(bytes, first) => {
                let from = usize::try_from(from).unwrap_or(usize::MAX);
                What::Bytes(Arc::clone(bytes), first.saturating_add(from))
            }
            other => other.clone(),
        };
        Self { len, number: self.number, what }
    }
}

#[cfg(test)]
mod tests;
