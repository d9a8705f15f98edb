//! Requests to send: the headers in one buffer, the payloads where they are, and as many of both as
//! possible per vectored send. The header of a write goes into the same send as its payload.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice, Write},
    iter,
};

use super::{Done, Turned};

/// The most slices per send. Half of them are headers.
const SLICES: usize = 64;

/// Headers that were sent are removed once they have this many bytes. Threads that share a connection may never leave
/// its queue empty.
const SENT: usize = 4 << 10;

/// What is left to send of a request.
#[derive(Debug)]
struct Piece {
    cookie: u64,
    /// Bytes of its header that are left.
    head: usize,
    /// Bytes of its payload that are left.
    payload: usize,
}

/// The queue of requests to send.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// All headers. Those before `sent` have been sent.
    heads: Vec<u8>,
    sent: usize,
    /// The offset at which the next header begins.
    known: usize,
    pieces: VecDeque<Piece>,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The buffer to append the next header to.
    pub(super) const fn heads(&mut self) -> &mut Vec<u8> {
        &mut self.heads
    }

    /// Queues a header that was appended. `payload` bytes of its order follow it.
    pub(super) fn push(&mut self, cookie: u64, payload: usize) {
        let head = self.heads.len() - self.known;
        self.known = self.heads.len();
        self.pieces.push_back(Piece { cookie, head, payload });
    }

    /// Whether a part of this request has not been sent.
    pub(super) fn has_unsent(&self, cookie: u64) -> bool {
        // Usually the queue is empty.
        self.pieces.iter().any(|piece| piece.cookie == cookie)
    }

    /// Sends until nothing is left or the socket would block, but at most `most` times. `Busy`: it ended for neither
    /// reason.
    pub(super) fn send(
        &mut self,
        socket: &mut impl Write,
        flying: &HashMap<u64, Done>,
        most: usize,
    ) -> io::Result<Turned> {
        for _ in 0..most {
            if self.pieces.is_empty() {
                break;
            }
            let slices = self.slices(flying);
            match socket.write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.advance(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Turned::Idle);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(if self.pieces.is_empty() { Turned::Idle } else { Turned::Busy })
    }

    /// Sends the only request of the queue, whose payload is `bytes`. Returns how many bytes of the payload were sent.
    pub(super) fn send_borrowed(
        &mut self,
        socket: &mut impl Write,
        bytes: &[&[u8]],
    ) -> io::Result<usize> {
        let head = self.heads.get(self.sent..).unwrap_or_default().to_vec();
        let mut all: Vec<_> =
            iter::once(&head[..]).chain(bytes.iter().copied()).map(IoSlice::new).collect();
        let (mut left, mut sent) = (&mut all[..], 0);
        let done = loop {
            let some = left.get(..left.len().min(SLICES)).unwrap_or_default();
            match socket.write_vectored(some) {
                Ok(0) if left.is_empty() => break Ok(()),
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    sent += n;
                    IoSlice::advance_slices(&mut left, n);
                    if left.is_empty() {
                        break Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.advance(sent);
        done.map(|()| sent.saturating_sub(head.len()))
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
        } else if self.sent >= SENT {
            self.heads.drain(..self.sent);
            self.known -= self.sent;
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Order;

    /// A socket that takes 100 bytes per call.
    struct Slow(Vec<u8>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(100);
            self.0.extend(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_queue_that_is_never_empty_keeps_no_sent_headers() {
        let (mut outgoing, mut socket) = (Outgoing::default(), Slow(Vec::new()));
        let flying: HashMap<_, _> = (0..2)
            .map(|cookie| (cookie, Done::new(Order::write(0, vec![7; 300], false))))
            .collect();
        let mut expected = Vec::new();
        for round in 0..2000_u64 {
            let head = [b'h'; 32];
            outgoing.heads().extend(head);
            outgoing.push(round % 2, 300);
            expected.extend([&head[..], &[7; 300]].concat());
            // One request stays in the queue.
            while outgoing.pieces.len() > 1 {
                outgoing.send(&mut socket, &flying, 1).unwrap();
            }
            assert!(outgoing.heads.len() <= SENT + 64, "{}", outgoing.heads.len());
        }
        assert_eq!(outgoing.send(&mut socket, &flying, usize::MAX).unwrap(), Turned::Idle);
        assert!(socket.0 == expected);
    }

    #[test]
    fn sending_is_bounded() {
        let (mut outgoing, mut socket) = (Outgoing::default(), Slow(Vec::new()));
        let flying = HashMap::from([(0, Done::new(Order::write(0, vec![7; 300], false)))]);
        outgoing.heads().extend([b'h'; 32]);
        outgoing.push(0, 300);
        assert_eq!(outgoing.send(&mut socket, &flying, 3).unwrap(), Turned::Busy);
        assert_eq!(outgoing.send(&mut socket, &flying, 9).unwrap(), Turned::Idle);
        assert_eq!(socket.0.len(), 332);
    }
}
