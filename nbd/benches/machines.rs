//! What a request costs the protocol alone, without a socket and without a disk:
//! `cargo bench -p nbd`.
//!
//! Prints requests per second of the server (its receive machine and its replies) and of the client (the
//! requests that it sends and the replies that it takes), both by one thread.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use nbd::{
    BlockSizes, Buffer, Framing, Gather, Payload,
    negotiate::{self, Ask, ClientStep, Context, Export, Negotiated, Offers, Server, Step},
    transmit::{
        Checked, Extent, ReadPiece, Received, Receiver, Replies,
        client::{Client, Event},
    },
    wire::{BASE_ALLOCATION, ExtentFlags, Request, TransmissionFlags},
};

/// How long each line is measured.
const TIME: Duration = Duration::from_millis(700);
/// The shortest spell that the clock measures well.
const SPELL: Duration = Duration::from_millis(5);
/// Requests that are in one buffer, as a client with that many outstanding ones sends them.
const BATCH: u64 = 128;
/// Bytes of the disk.
const SIZE: u64 = 1 << 30;
/// Bytes of one read or write.
const BLOCK: u64 = 4096;

/// Calls `batch` for a while, which handles `BATCH` requests. Prints the rate of the best and of the
/// median spell: the machine may have other work.
fn measure(name: &str, mut batch: impl FnMut()) {
    let mut rates = Vec::new();
    let start = Instant::now();
    while start.elapsed() < TIME {
        let (spell, mut count) = (Instant::now(), 0_u64);
        while spell.elapsed() < SPELL {
            batch();
            count += BATCH;
        }
        rates.push(count as f64 / spell.elapsed().as_secs_f64() / 1e6);
    }
    rates.sort_by(f64::total_cmp);
    let (best, median) = (rates[rates.len() - 1], rates[rates.len() / 2]);
    println!("{name:<48} best {best:>7.2}, median {median:>7.2} million requests/s");
}

/// Bytes of one page that all reads lend.
#[derive(Debug)]
struct Page(&'static [u8]);

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl Payload for Page {}

static PAGE: [u8; 4096] = [7; 4096];

/// Both ends of a negotiation, in memory.
fn negotiated(framing: Framing) -> Negotiated {
    let export = Export {
        size: SIZE,
        flags: TransmissionFlags::SEND_FLUSH | TransmissionFlags::SEND_FUA,
        blocks: BlockSizes::default(),
        unit: 1,
        name: None,
        description: None,
        contexts: vec![Context::with_extents(BASE_ALLOCATION)],
    };
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let mut server = Server::start(Offers::default(), &mut down);
    let mut client = negotiate::Client::start(framing);
    loop {
        let (_, step) = client.step(&std::mem::take(&mut down), &mut up);
        client = match step {
            ClientStep::Feed(client) => client,
            ClientStep::Ready(ready) => ready.go("", true, &mut up),
            other => panic!("{other:?}"),
        };
        let mut rest = &*std::mem::take(&mut up);
        while !rest.is_empty() {
            let (consumed, step) = server.step(rest, &mut down);
            rest = &rest[consumed..];
            let step = match step {
                Step::Ask(Ask::Export(ask)) => ask.answer(Ok(export.clone()), &mut down),
                step => step,
            };
            server = match step {
                Step::Feed(server) => server,
                Step::Done(negotiated) => return negotiated,
                other => panic!("{other:?}"),
            };
        }
    }
}

/// Takes all requests out of `input` and answers them; the replies are in `out`.
fn serve(receiver: &mut Receiver, buffer: &mut Buffer, input: &[u8], out: &mut Gather<Page>) {
    let mut rest = input;
    loop {
        match receiver.next(buffer).unwrap() {
            Received::Incomplete if rest.is_empty() => return,
            Received::Incomplete => {
                let spare = buffer.spare();
                let n = spare.len().min(rest.len());
                spare[..n].copy_from_slice(&rest[..n]);
                buffer.added(n);
                rest = &rest[n..];
            }
            Received::Request { request, checked, payload } => {
                black_box(&buffer.filled()[..payload]);
                buffer.consume(payload);
                answer(&mut Replies { out, terms: receiver.terms() }, &request, checked);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn answer(replies: &mut Replies<'_, Page>, request: &Request, checked: Checked) {
    match checked {
        Checked::Read { df, .. } => {
            replies.read(request, df, [ReadPiece::Data(Page(&PAGE))].into_iter());
        }
        Checked::Extents { len, one, .. } => {
            let half = |flags| Extent { len: len / 2, flags };
            let extents = [half(ExtentFlags::empty()), half(ExtentFlags::HOLE)];
            replies.extents(request, one, |_| extents);
        }
        _ => replies.done(request),
    }
}

/// Appends one request at an offset.
type Send = fn(&mut Client, u64, &mut Vec<u8>);

/// Appends a batch of requests.
fn requests(client: &mut Client, send: Send, out: &mut Vec<u8>) {
    for index in 0..BATCH {
        send(client, index * BLOCK, out);
    }
}

fn read(client: &mut Client, at: u64, out: &mut Vec<u8>) {
    client.read(at, BLOCK, false, out).unwrap();
}

fn write(client: &mut Client, at: u64, out: &mut Vec<u8>) {
    client.write(at, BLOCK, false, out).unwrap();
    out.extend_from_slice(&PAGE);
}

fn status(client: &mut Client, at: u64, out: &mut Vec<u8>) {
    client.extents(at, BLOCK, false, out).unwrap();
}

fn main() {
    for framing in [Framing::Simple, Framing::Structured, Framing::Extended] {
        let all: [(&str, Send); 3] =
            [("read 4 KiB", read), ("write 4 KiB", write), ("block status", status)];
        for (what, send) in all {
            if framing == Framing::Simple && what == "block status" {
                continue;
            }
            let negotiated = negotiated(framing);
            let terms = negotiated.terms().clone();
            let mut receiver = Receiver::new(negotiated, u64::MAX);
            let mut buffer = Buffer::new(vec![0; 256 << 10].into());
            let mut input = Vec::new();
            requests(&mut Client::new(terms.clone()), send, &mut input);
            let mut out = Gather::default();
            measure(&format!("server, {framing:?}: {what}"), || {
                serve(&mut receiver, &mut buffer, &input, &mut out);
                out.advance(out.len());
            });

            // The replies to the first requests of a client, whose cookies are the same each time.
            serve(&mut receiver, &mut buffer, &input, &mut out);
            let replies = bytes(&out);
            out.advance(out.len());
            let mut sent = Vec::new();
            measure(&format!("client, {framing:?}: {what}"), || {
                let mut client = Client::new(terms.clone());
                sent.clear();
                requests(&mut client, send, &mut sent);
                take(&mut client, &replies);
            });
        }
    }
}

fn bytes(out: &Gather<Page>) -> Vec<u8> {
    let mut slices = Vec::new();
    out.slices(usize::MAX, &mut slices);
    slices.iter().flat_map(|slice| slice.iter().copied()).collect()
}

/// Lets the client take the replies to all of its requests.
fn take(client: &mut Client, replies: &[u8]) {
    let mut rest = replies;
    loop {
        let (consumed, event) = client.step(rest).unwrap();
        rest = &rest[consumed..];
        match black_box(event) {
            Some(Event::Done { result, .. }) => result.unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    assert_eq!((rest.len(), client.outstanding()), (0, 0));
}
