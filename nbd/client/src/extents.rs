//! The extents of a range, in the order of their offsets. Neighbours with the same status are merged.
//!
//! A range is asked for in pieces, several at once if the caller has no other request in flight on the
//! connection. A server may answer less than it was asked. The missing part of the first piece is asked for
//! again at once, that of another piece when that one becomes the first. So no more than one answer per piece
//! is kept, however small the extents are.

use std::{collections::VecDeque, mem};

use nbd::wire::ExtentFlags;

use crate::{
    client::{Client, Extent, Order, Verb},
    error::ClientError,
};

/// The shortest piece that is worth a request of its own, in bytes.
const PIECE: u64 = 4 << 30;
/// How many pieces a very large disk is cut into, if lengths have 64 bits.
const PIECES: u64 = 64;

/// The state of the listing: extents that are known, and pieces to ask for.
#[derive(Debug)]
pub struct Extents {
    /// The offset of the next piece, and the end of the last one.
    next: u64,
    end: u64,
    piece: u64,
    /// Offsets must be multiples of this number of bytes.
    unit: u64,
    depth: usize,
    pieces: VecDeque<Piece>,
    ready: VecDeque<Extent>,
    last: Option<Extent>,
}

#[derive(Debug)]
struct Piece {
    /// Its offset, which is also the tag of its order.
    from: u64,
    /// It has been answered up to this offset.
    at: u64,
    end: u64,
    asked: bool,
    found: Vec<Extent>,
}

impl Extents {
    /// Lists the extents of a range (offset and length in bytes) of the client's export, with up to `depth`
    /// requests in flight. With 1, no request is in flight while the caller handles an extent.
    pub fn new(link: &Client, (at, len): (u64, u64), depth: usize) -> Self {
        let unit = u64::from(link.terms().blocks.minimum.max(1));
        let piece = PIECE.max(len / PIECES).min(link.longest_range());
        let piece = (piece - piece % unit).max(unit);
        let (pieces, ready) = (VecDeque::new(), VecDeque::new());
        Self { next: at, end: at + len, piece, unit, depth, pieces, ready, last: None }
    }

    /// Returns the next extent; `None` at the end of the range.
    ///
    /// # Errors
    /// As `Client::next_good`.
    pub fn next(&mut self, link: &mut Client) -> Result<Option<Extent>, ClientError> {
        loop {
            while let Some(extent) = self.ready.pop_front() {
                match &mut self.last {
                    Some(last) if last.flags == extent.flags => last.len += extent.len,
                    last => {
                        if let Some(whole) = last.replace(extent) {
                            return Ok(Some(whole));
                        }
                    }
                }
            }
            match self.go_on(link) {
                Ok(true) => {}
                Ok(false) => return Ok(self.last.take()),
                Err(error) => {
                    if error.is_of_one_request() {
                        link.settle();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Sends requests, waits for an answer if there is none, and makes the known extents of the first piece
    /// ready. Returns whether there is more.
    fn go_on(&mut self, link: &mut Client) -> Result<bool, ClientError> {
        while self.pieces.len() < self.depth && self.next < self.end {
            let end = self.next.saturating_add(self.piece).min(self.end);
            let (from, found) = (self.next, Vec::new());
            let mut piece = Piece { from, at: from, end, asked: false, found };
            piece.ask(link)?;
            self.pieces.push_back(piece);
            self.next = end;
        }
        let Some(first) = self.pieces.front_mut() else { return Ok(false) };
        if !first.found.is_empty() {
            self.ready.extend(mem::take(&mut first.found));
            if first.at == first.end {
                self.pieces.pop_front();
            }
            return Ok(true);
        }
        if !first.asked {
            first.ask(link)?;
        }
        let done = link.next_good()?;
        let tag = done.order.tag;
        if let Some(piece) = self.pieces.iter_mut().find(|piece| piece.from == tag) {
            piece.take(&done.extents, self.unit);
        }
        Ok(true)
    }
}

impl Piece {
    fn ask(&mut self, link: &mut Client) -> Result<(), ClientError> {
        let order = Order::bare(Verb::Extents { one: false }, self.at, self.end - self.at);
        link.submit(order.tagged(self.from))?;
        self.asked = true;
        Ok(())
    }

    /// Takes the extents of an answer. What reaches beyond the piece belongs to the next piece. An answer that
    /// ends within a block is cut at the block's start, because only there the next request can begin.
    fn take(&mut self, extents: &[Extent], unit: u64) {
        self.asked = false;
        let start = self.at;
        for extent in extents {
            let end = extent.at.saturating_add(extent.len).min(self.end);
            if end > self.at {
                self.found.push(Extent { at: self.at, len: end - self.at, flags: extent.flags });
                self.at = end;
            }
        }
        if self.at == self.end || self.at.is_multiple_of(unit) {
            return;
        }
        let whole = self.at - self.at % unit;
        if whole > start {
            self.found.retain_mut(|extent| {
                extent.len = extent.len.min(whole.saturating_sub(extent.at));
                extent.len > 0
            });
            self.at = whole;
        } else {
            // Less than one block was answered: the block has the flags that its parts have in common.
            let flags = extents.iter().fold(ExtentFlags::all(), |all, extent| all & extent.flags);
            let len = unit.min(self.end - start);
            self.found = vec![Extent { at: start, len, flags }];
            self.at = start + len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(unit: u64, extents: &[(u64, u64, u32)]) -> (u64, Vec<(u64, u64, u32)>) {
        let mut piece = Piece { from: 0, at: 512, end: 4096, asked: true, found: Vec::new() };
        let extent = |&(at, len, flags): &(u64, u64, u32)| Extent {
            at,
            len,
            flags: ExtentFlags::from_bits_retain(flags),
        };
        piece.take(&extents.iter().map(extent).collect::<Vec<_>>(), unit);
        let found = piece.found.iter().map(|e| (e.at, e.len, e.flags.bits()));
        (piece.at, found.collect())
    }

    #[test]
    fn answers_are_clipped_to_the_piece_and_cut_at_blocks() {
        let whole = [(512, 100, 0), (612, 9000, 3)];
        assert_eq!(taken(512, &whole), (4096, vec![(512, 100, 0), (612, 3484, 3)]));
        let part = [(512, 512, 0), (1024, 700, 3), (1724, 1, 1)];
        assert_eq!(taken(1, &part).0, 1725);
        assert_eq!(taken(512, &part), (1536, vec![(512, 512, 0), (1024, 512, 3)]));
        assert_eq!(taken(512, &[(512, 9, 3), (521, 9, 1)]), (1024, vec![(512, 512, 1)]));
    }
}
