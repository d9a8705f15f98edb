//! Requests on their way out: headers in one arena, payloads where they are, and as many as go in
//! one vectored send. A header never travels alone.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice, Write},
};

use super::Done;

/// Slices of one send; half of them headers.
const SLICES: usize = 64;

/// One request: what is left of it to send.
#[derive(Debug)]
struct Piece {
    cookie: u64,
    /// Bytes of its header.
    head: usize,
    /// Bytes of its payload.
    payload: usize,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// All headers; those before `sent` have been.
    heads: Vec<u8>,
    sent: usize,
    /// Where the header that is pushed next begins.
    known: usize,
    pieces: VecDeque<Piece>,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Where the next header is to be put, behind the others.
    pub(super) const fn heads(&mut self) -> &mut Vec<u8> {
        &mut self.heads
    }

    /// A header was put; `payload` bytes of its order follow it.
    pub(super) fn push(&mut self, cookie: u64, payload: usize) {
        let head = self.heads.len() - self.known;
        self.known = self.heads.len();
        self.pieces.push_back(Piece { cookie, head, payload });
    }

    /// Some of this request has not left.
    pub(super) fn has_unsent(&self, cookie: u64) -> bool {
        // Mostly there is nothing to look through.
        self.pieces.iter().any(|piece| piece.cookie == cookie)
    }

    /// Sends until nothing is left or the socket takes no more.
    pub(super) fn send(
        &mut self,
        socket: &mut impl Write,
        flying: &HashMap<u64, Done>,
    ) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let slices = self.slices(flying);
            match socket.write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.advance(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn slices<'a>(&'a self, flying: &'a HashMap<u64, Done>) -> Vec<IoSlice<'a>> {
        let mut slices = Vec::with_capacity(SLICES.min(2 * self.pieces.len()));
        let mut from = self.sent;
        for piece in &self.pieces {
            if slices.len() + 2 > SLICES {
                break;
            }
            slices.push(IoSlice::new(self.heads.get(from..from + piece.head).unwrap_or_default()));
            from += piece.head;
            if piece.payload > 0 {
                let bytes = flying.get(&piece.cookie).map_or(&[][..], |done| &done.order.bytes);
                let left = bytes.len().saturating_sub(piece.payload);
                slices.push(IoSlice::new(bytes.get(left..).unwrap_or_default()));
            }
        }
        slices
    }

    fn advance(&mut self, mut n: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            let head = n.min(piece.head);
            piece.head -= head;
            self.sent += head;
            n -= head;
            let payload = n.min(piece.payload);
            piece.payload -= payload;
            n -= payload;
            if piece.head + piece.payload > 0 {
                break;
            }
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            self.heads.clear();
            (self.sent, self.known) = (0, 0);
        }
    }
}
