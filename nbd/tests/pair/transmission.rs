//! Requests and replies over a disk in memory: reads return what was written, whatever the framing, the order of
//! the answers and the cuts.

use std::collections::HashMap;

use nbd::{
    Buffer, Framing, Gather,
    negotiate::Offers,
    transmit::{
        Checked, Extent, ReadPiece, Received, Receiver, Replies,
        client::{self, Event},
    },
    wire::{BASE_ALLOCATION, CommandFlags, ExtentFlags, Request},
};
use proptest::{collection::vec, prelude::*};

use crate::{Pipe, framing, negotiation};

/// Bytes of the disk.
const SIZE: usize = negotiation::SIZE as usize;
/// The unit in which the server tells holes from data, in bytes.
const BLOCK: usize = 64;

/// A client and a server's end of a transmission over a disk in memory.
struct Transmission {
    server: Receiver,
    /// The server's receive buffer.
    buffer: Buffer,
    /// The payload of a write that is being received.
    payload: Vec<u8>,
    disk: Vec<u8>,
    client: client::Client,
    up: Pipe,
    down: Pipe,
    /// Requests that the server has received and not answered, with their payload.
    taken: Vec<(Request, Checked, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Op {
    Read(usize, usize, bool),
    Write(usize, Vec<u8>),
    Zero(usize, usize),
    Extents(usize, usize, bool),
    Flush,
    /// The server answers the received request with this index.
    Answer(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let range = || (0..SIZE, 1..SIZE);
    prop_oneof![
        (range(), any::<bool>()).prop_map(|((at, len), df)| Op::Read(at, len, df)),
        (0..SIZE, vec(any::<u8>(), 1..40_000)).prop_map(|(at, bytes)| Op::Write(at, bytes)),
        range().prop_map(|(at, len)| Op::Zero(at, len)),
        (range(), any::<bool>()).prop_map(|((at, len), one)| Op::Extents(at, len, one)),
        Just(Op::Flush),
        any::<usize>().prop_map(Op::Answer),
    ]
}

impl Transmission {
    /// Lets the server take the requests that have arrived.
    fn take(&mut self) {
        loop {
            let spare = self.buffer.spare();
            let n = spare.len().min(self.up.there.len());
            spare[..n].copy_from_slice(&self.up.there[..n]);
            self.buffer.added(n);
            self.up.consume(n);
            match self.server.next(&mut self.buffer).expect("the client keeps to the protocol") {
                Received::Incomplete if self.up.there.is_empty() => break,
                Received::Incomplete => {}
                Received::Request { request, checked, payload } => {
                    let bytes = self.buffer.filled()[..payload].to_vec();
                    self.buffer.consume(payload);
                    self.taken.push((request, checked, bytes));
                }
                Received::Write { .. } => self.payload.clear(),
                Received::Payload(n) => {
                    self.payload.extend_from_slice(&self.buffer.filled()[..n]);
                    self.buffer.consume(n);
                }
                Received::Written { request, checked } => {
                    self.taken.push((request, checked, std::mem::take(&mut self.payload)));
                }
                // The server must take every request that the client sends.
                other => panic!("{other:?}"),
            }
        }
    }

    fn answer(&mut self, request: &Request, checked: Checked, payload: &[u8]) {
        let mut out = Gather::default();
        let mut replies = Replies { out: &mut out, terms: self.server.terms() };
        match checked {
            Checked::Read { at, len, df } => {
                let pieces = pieces(&self.disk, range(at, len.into()));
                replies.read(request, df, pieces.into_iter());
            }
            Checked::Write { at, len, .. } => {
                self.disk[range(at, len.into())].copy_from_slice(payload);
                replies.done(request);
            }
            Checked::Zero { at, len, .. } => {
                self.disk[range(at, len)].fill(0);
                replies.done(request);
            }
            Checked::Extents { at, len, one } => {
                let pieces = pieces(&self.disk, range(at, len));
                let extents = pieces.iter().map(|piece| match piece {
                    ReadPiece::Data(bytes) => {
                        Extent { len: bytes.len() as u64, flags: ExtentFlags::empty() }
                    }
                    ReadPiece::Hole(len) => {
                        Extent { len: *len, flags: ExtentFlags::HOLE | ExtentFlags::ZERO }
                    }
                });
                // The second context says where data is, in bits of its own.
                replies.extents(request, one, |context| {
                    let is_base = context.name == BASE_ALLOCATION;
                    let own = |extent: Extent| Extent {
                        flags: ExtentFlags::from_bits_retain(u32::from(extent.flags.is_empty())),
                        ..extent
                    };
                    extents.clone().map(move |extent| if is_base { extent } else { own(extent) })
                });
            }
            _ => replies.done(request),
        }
        let mut slices = Vec::new();
        out.slices(usize::MAX, &mut slices);
        self.down.send(&mut slices.iter().flat_map(|slice| slice.to_vec()).collect());
    }

    /// Lets one piece arrive at each end. Events go to `tell`.
    fn arrive(&mut self, mut tell: impl FnMut(Event<'_>)) -> bool {
        let moved = self.up.arrive();
        self.take();
        let moved = self.down.arrive() || moved;
        loop {
            let (eaten, event) = self.client.step(&self.down.there).unwrap();
            let more = event.is_some();
            event.into_iter().for_each(&mut tell);
            self.down.consume(eaten);
            if !more {
                return moved;
            }
        }
    }
}

fn range(at: u64, len: u64) -> std::ops::Range<usize> {
    let at = usize::try_from(at).unwrap();
    at..at + usize::try_from(len).unwrap()
}

/// Data and holes of a range, one piece per block.
fn pieces(disk: &[u8], range: std::ops::Range<usize>) -> Vec<ReadPiece<Vec<u8>>> {
    let mut pieces = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min((at / BLOCK + 1) * BLOCK);
        let bytes = &disk[at..end];
        let hole = bytes.iter().all(|byte| *byte == 0);
        pieces.push(if hole {
            ReadPiece::Hole(bytes.len() as u64)
        } else {
            ReadPiece::Data(bytes.to_vec())
        });
        at = end;
    }
    pieces
}

/// The expected result of an outstanding request.
struct Expected {
    at: usize,
    read: Vec<u8>,
    /// Bytes whose status has arrived, by context.
    extents: HashMap<u32, u64>,
}

proptest! {
    #[test]
    fn reads_return_what_was_written_in_every_framing_order_and_cut(
        wish in framing(),
        ops in vec(op(), 0..60),
        cuts in vec(prop_oneof![1_usize..700, 1_usize..30_000], 1..8),
        order in vec(any::<usize>(), 60),
    ) {
        let (served, entered, _) = negotiation::negotiate(wish, Offers::default(), &[], &[1 << 20]);
        let mut both = Transmission {
            server: Receiver::new(served, u64::MAX),
            buffer: Buffer::new(vec![0; 20_000].into()),
            payload: Vec::new(),
            disk: vec![0; SIZE],
            client: client::Client::new(entered.into_terms()),
            up: Pipe::new(&cuts),
            down: Pipe::new(&cuts),
            taken: Vec::new(),
        };
        let mut expected: HashMap<u64, Expected> = HashMap::new();
        let mut out = Vec::new();
        let answers = order.into_iter().map(Op::Answer);
        for op in ops.into_iter().chain(answers) {
            let clip = |at: usize, len: usize| (at as u64, len.min(SIZE - at) as u64);
            let sent = match op {
                Op::Read(at, len, df) => {
                    let (at, len) = clip(at, len);
                    let df = df && wish > Framing::Simple;
                    Some((at, len, both.client.read(at, len, df, &mut out)))
                }
                Op::Write(at, bytes) => {
                    let (at, len) = clip(at, bytes.len());
                    let sent = both.client.write(at, len, len % 2 == 0, &mut out);
                    out.extend_from_slice(&bytes[..usize::try_from(len).unwrap()]);
                    Some((0, 0, sent))
                }
                Op::Zero(at, len) => {
                    let (at, len) = clip(at, len);
                    Some((0, 0, both.client.zero(at, len, CommandFlags::NO_HOLE, &mut out)))
                }
                Op::Extents(at, len, one) if wish > Framing::Simple => {
                    let (at, len) = clip(at, len);
                    Some((at, 0, both.client.extents(at, len, one, &mut out)))
                }
                Op::Extents(..) | Op::Flush => Some((0, 0, both.client.flush(&mut out))),
                Op::Answer(index) => {
                    if !both.taken.is_empty() {
                        let (request, checked, payload) = both.taken.remove(index % both.taken.len());
                        // The model: a read returns the contents of the disk when it is answered.
                        if let Some(due) = expected.get_mut(&request.cookie) {
                            let end = due.at + due.read.len();
                            due.read.copy_from_slice(&both.disk[due.at..end]);
                        }
                        both.answer(&request, checked, &payload);
                    }
                    None
                }
            };
            if let Some((at, len, sent)) = sent {
                let (at, len) = (usize::try_from(at).unwrap(), usize::try_from(len).unwrap());
                let due = Expected { at, read: vec![0xaa; len], extents: HashMap::new() };
                expected.insert(sent.unwrap(), due);
            }
            both.up.send(&mut out);
            both.arrive(|event| judge(&mut expected, &event));
        }
        // Deliver and answer everything that is left.
        while !both.taken.is_empty() || both.arrive(|event| judge(&mut expected, &event)) {
            for (request, checked, payload) in std::mem::take(&mut both.taken) {
                if let Some(due) = expected.get_mut(&request.cookie) {
                    let end = due.at + due.read.len();
                    due.read.copy_from_slice(&both.disk[due.at..end]);
                }
                both.answer(&request, checked, &payload);
            }
        }
        prop_assert_eq!(both.client.outstanding(), 0);
        prop_assert!(expected.is_empty());
    }
}

/// Checks an event against the expected result.
fn judge(expected: &mut HashMap<u64, Expected>, event: &Event<'_>) {
    match event {
        Event::Data { cookie, at, bytes } => {
            let due = &expected[cookie];
            let start = usize::try_from(*at).unwrap() - due.at;
            assert_eq!(&due.read[start..start + bytes.len()], *bytes);
        }
        Event::Hole { cookie, at, len } => {
            let due = &expected[cookie];
            let hole = range(*at - due.at as u64, *len);
            assert!(due.read[hole].iter().all(|byte| *byte == 0));
        }
        Event::Extent { cookie, context, at, len, .. } => {
            let due = expected.get_mut(cookie).unwrap();
            let told = due.extents.entry(*context).or_default();
            assert_eq!(*at, due.at as u64 + *told, "consecutive");
            *told += len;
        }
        Event::Done { cookie, result } => {
            assert_eq!(result, &Ok(()));
            let due = expected.remove(cookie).unwrap();
            assert!([0, 2].contains(&due.extents.len()), "the status of both contexts or of none");
        }
    }
}
