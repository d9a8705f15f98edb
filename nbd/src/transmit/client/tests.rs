use super::*;
use crate::{
    AgreedContext, BlockSizes, Violation,
    wire::{ChunkFlags, ChunkType, Errno, SimpleReply},
};

mod extents;

const SIZE: u64 = 1 << 20;

fn client(framing: Framing) -> Client {
    let mut terms = Terms {
        size: SIZE,
        flags: !TransmissionFlags::READ_ONLY,
        framing,
        contexts: Vec::new(),
        blocks: BlockSizes::default(),
        unit: 1,
    };
    if framing > Framing::Simple {
        terms.contexts.push(AgreedContext::new(9, "base:allocation"));
    }
    terms.flags.set(TransmissionFlags::SEND_DF, framing > Framing::Simple);
    Client::new(terms)
}

/// A chunk with the request's offset where the framing has room for it.
fn chunk(
    framing: Framing,
    done: bool,
    kind: ChunkType,
    cookie: u64,
    at: u64,
    body: &[u8],
) -> Vec<u8> {
    let flags = if done { ChunkFlags::DONE } else { ChunkFlags::empty() };
    let mut out = Vec::new();
    ChunkHeader { flags, kind, cookie, offset: at, len: body.len() as u64 }
        .put(framing == Framing::Extended, &mut out);
    out.extend_from_slice(body);
    out
}

fn data(at: u64, bytes: &[u8]) -> Vec<u8> {
    [&at.to_be_bytes(), bytes].concat()
}

fn hole(at: u64, len: u32) -> Vec<u8> {
    [&at.to_be_bytes()[..], &len.to_be_bytes()].concat()
}

fn error(errno: Errno, text: &[u8], tail: &[u8]) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap();
    [&errno.0.to_be_bytes()[..], &len.to_be_bytes(), text, tail].concat()
}

fn compact(extents: &[(u32, u32)]) -> Vec<u8> {
    let mut body = 9_u32.to_be_bytes().to_vec();
    for (len, flags) in extents {
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(&flags.to_be_bytes());
    }
    body
}

/// The content of the events, with payload put together. All bytes must be consumed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    /// Offset and bytes.
    data: Vec<(u64, Vec<u8>)>,
    holes: Vec<(u64, u64)>,
    extents: Vec<(u64, u64, u32)>,
    /// The context of each extent.
    contexts: Vec<u32>,
    done: Vec<(u64, Result<(), Failure>)>,
}

/// Feeds `bytes` in pieces of `step`.
fn feed(client: &mut Client, bytes: &[u8], step: usize) -> Result<Got, Violation> {
    let mut got = Got::default();
    let mut pending = Vec::new();
    for piece in bytes.chunks(step) {
        pending.extend_from_slice(piece);
        loop {
            let (eaten, event) = client.step(&pending)?;
            let told = event.is_some();
            match event {
                None => {}
                Some(Event::Data { at, bytes, .. }) => match got.data.last_mut() {
                    Some((start, all)) if *start + all.len() as u64 == at => all.extend(bytes),
                    _ => got.data.push((at, bytes.to_vec())),
                },
                Some(Event::Hole { at, len, .. }) => got.holes.push((at, len)),
                Some(Event::Extent { at, len, flags, context, .. }) => {
                    got.extents.push((at, len, flags.bits()));
                    got.contexts.push(context);
                }
                Some(Event::Done { cookie, result }) => got.done.push((cookie, result)),
            }
            pending.drain(..eaten);
            if !told {
                break;
            }
        }
        assert!(pending.len() < Client::INPUT);
    }
    assert!(pending.is_empty(), "{} bytes not consumed", pending.len());
    Ok(got)
}

#[test]
fn a_simple_read_gives_its_bytes_at_any_cut() {
    for step in [1, 3, 16, 17, 1000] {
        let mut client = client(Framing::Simple);
        let (one, two) =
            (client.read(100, 10, false, &mut vec![]).unwrap(), client.flush(&mut vec![]).unwrap());
        assert_eq!(client.outstanding(), 2);
        let mut bytes = Vec::new();
        SimpleReply { error: Errno(0), cookie: two }.put(&mut bytes);
        SimpleReply { error: Errno(0), cookie: one }.put(&mut bytes);
        bytes.extend_from_slice(b"0123456789");
        let got = feed(&mut client, &bytes, step).unwrap();
        assert_eq!(got.data, [(100, b"0123456789".to_vec())]);
        assert_eq!(got.done, [(two, Ok(())), (one, Ok(()))]);
        assert_eq!(client.outstanding(), 0);
    }
}

#[test]
fn a_failed_simple_read_has_no_bytes() {
    let mut client = client(Framing::Simple);
    let cookie = client.read(0, 10, false, &mut vec![]).unwrap();
    let mut bytes = Vec::new();
    SimpleReply { error: Errno::EIO, cookie }.put(&mut bytes);
    let got = feed(&mut client, &bytes, 5).unwrap();
    let failure = got.done[0].1.clone().unwrap_err();
    assert_eq!(failure.to_string(), "the server answered EIO");
}

#[test]
fn chunks_may_come_in_any_order_with_holes_at_any_cut() {
    for framing in [Framing::Structured, Framing::Extended] {
        for step in [1, 7, 33, 10_000] {
            let mut client = client(framing);
            let cookie = client.read(512, 100, false, &mut vec![]).unwrap();
            let of = |done, kind, body: &[u8]| chunk(framing, done, kind, cookie, 512, body);
            let bytes = [
                of(false, ChunkType::OFFSET_DATA, &data(592, &[3; 20])),
                of(false, ChunkType::OFFSET_HOLE, &hole(522, 70)),
                of(false, ChunkType::OFFSET_DATA, &data(512, &[1; 10])),
                of(true, ChunkType::NONE, &[]),
            ]
            .concat();
            let got = feed(&mut client, &bytes, step).unwrap();
            assert_eq!(got.data, [(592, vec![3; 20]), (512, vec![1; 10])]);
            assert_eq!(got.holes, [(522, 70)]);
            assert_eq!(got.done, [(cookie, Ok(()))]);
        }
    }
}

#[test]
fn an_error_comes_with_its_text_and_offset() {
    for framing in [Framing::Structured, Framing::Extended] {
        let mut client = client(framing);
        let cookie = client.read(512, 100, false, &mut vec![]).unwrap();
        let of = |done, kind, body: &[u8]| chunk(framing, done, kind, cookie, 512, body);
        let offset = error(Errno::EIO, b"bad\x07 sector", &600_u64.to_be_bytes());
        let bytes = [
            of(false, ChunkType::OFFSET_DATA, &data(512, &[1; 50])),
            of(false, ChunkType::ERROR_OFFSET, &offset),
            // The first error counts, and an unknown type is an error too.
            of(false, ChunkType(0x8fff), &error(Errno::ENOMEM, b"", b"whatever")),
            of(true, ChunkType::ERROR, &error(Errno::EPERM, b"", b"")),
        ]
        .concat();
        let got = feed(&mut client, &bytes, 11).unwrap();
        let failure = got.done[0].1.clone().unwrap_err();
        let text = "the server answered EIO: bad  sector (at offset 600)";
        assert_eq!(failure.to_string(), text);
    }
}

/// Wrong answers of a hostile or broken server to a read of 512..612, each with the reason.
#[test]
fn replies_that_do_not_match_a_read_are_violations() {
    let full = data(512, &[1; 100]);
    for (why, df, chunks) in [
        ("missing bytes", false, vec![(true, ChunkType::OFFSET_DATA, data(512, &[1; 99]))]),
        ("nothing at all", false, vec![(true, ChunkType::NONE, vec![])]),
        ("before the read", false, vec![(true, ChunkType::OFFSET_DATA, data(511, &[1; 100]))]),
        ("past the read", false, vec![(true, ChunkType::OFFSET_DATA, data(513, &[1; 100]))]),
        ("too long", false, vec![(true, ChunkType::OFFSET_DATA, data(512, &[1; 101]))]),
        ("far away", false, vec![(true, ChunkType::OFFSET_HOLE, hole(u64::MAX, 100))]),
        ("a hole past it", false, vec![(true, ChunkType::OFFSET_HOLE, hole(512, u32::MAX))]),
        ("an empty hole", false, vec![(true, ChunkType::OFFSET_HOLE, hole(512, 0))]),
        ("an odd hole", false, vec![(true, ChunkType::OFFSET_HOLE, vec![0; 13])]),
        ("no data", false, vec![(true, ChunkType::OFFSET_DATA, data(512, &[]))]),
        (
            "twice",
            false,
            vec![
                (false, ChunkType::OFFSET_DATA, full.clone()),
                (true, ChunkType::OFFSET_HOLE, hole(560, 1)),
            ],
        ),
        (
            "fragments in spite of DF",
            true,
            vec![
                (false, ChunkType::OFFSET_DATA, data(512, &[1; 50])),
                (true, ChunkType::OFFSET_DATA, data(562, &[1; 50])),
            ],
        ),
        ("a status", false, vec![(true, ChunkType::BLOCK_STATUS, compact(&[(100, 0)]))]),
        ("an unknown chunk", false, vec![(true, ChunkType(77), vec![])]),
        ("an empty chunk that is not the last", false, vec![(false, ChunkType::NONE, vec![])]),
        ("an empty chunk that is not empty", false, vec![(true, ChunkType::NONE, vec![0])]),
        ("a short error", false, vec![(true, ChunkType::ERROR, vec![0; 5])]),
        ("a long error", false, vec![(true, ChunkType::ERROR, vec![0; 8193])]),
        ("no error", false, vec![(true, ChunkType::ERROR, error(Errno(0), b"", b""))]),
        (
            "a text past its chunk",
            false,
            vec![(true, ChunkType::ERROR, b"\0\0\0\x05\0\x09text".to_vec())],
        ),
        (
            "an error elsewhere",
            false,
            vec![(true, ChunkType::ERROR_OFFSET, error(Errno::EIO, b"", &612_u64.to_be_bytes()))],
        ),
        (
            "an error offset cut short",
            false,
            vec![(true, ChunkType::ERROR_OFFSET, error(Errno::EIO, b"text", &[0; 7]))],
        ),
        (
            "chunks after the last",
            false,
            vec![(true, ChunkType::OFFSET_DATA, full.clone()), (true, ChunkType::NONE, vec![])],
        ),
    ] {
        for framing in [Framing::Structured, Framing::Extended] {
            let mut client = client(framing);
            let cookie = client.read(512, 100, df, &mut vec![]).unwrap();
            let bytes: Vec<u8> = chunks
                .iter()
                .flat_map(|(done, kind, body)| chunk(framing, *done, *kind, cookie, 512, body))
                .collect();
            assert!(feed(&mut client, &bytes, 10_000).is_err(), "{why}");
        }
    }
}

#[test]
fn the_wrong_kind_of_reply_is_a_violation() {
    let mut simple = Vec::new();
    SimpleReply { error: Errno(0), cookie: 1 }.put(&mut simple);
    for (framing, reads, bytes) in [
        (Framing::Simple, true, chunk(Framing::Structured, true, ChunkType::NONE, 1, 0, &[])),
        (Framing::Structured, true, simple.clone()),
        (Framing::Structured, false, chunk(Framing::Extended, true, ChunkType::NONE, 1, 0, &[])),
        (Framing::Extended, false, simple.clone()),
        (Framing::Extended, false, chunk(Framing::Structured, true, ChunkType::NONE, 1, 0, &[])),
        // The offset of another request.
        (Framing::Extended, false, chunk(Framing::Extended, true, ChunkType::NONE, 1, 7, &[])),
        // A cookie that is not outstanding.
        (Framing::Structured, false, chunk(Framing::Structured, true, ChunkType::NONE, 2, 0, &[])),
    ] {
        let mut client = client(framing);
        if reads {
            client.read(0, 10, false, &mut vec![]).unwrap();
        } else {
            client.flush(&mut vec![]).unwrap();
        }
        assert!(feed(&mut client, &bytes, 10_000).is_err(), "{framing:?} {reads}");
    }
    // A simple reply is allowed to everything but a read.
    let mut client = client(Framing::Structured);
    client.flush(&mut vec![]).unwrap();
    assert_eq!(feed(&mut client, &simple, 1).unwrap().done, [(1, Ok(()))]);
}

#[test]
fn requests_that_the_export_does_not_take_are_not_sent() {
    let mut out = Vec::new();
    let mut client = client(Framing::Simple);
    client.terms.flags = TransmissionFlags::HAS_FLAGS;
    client.terms.blocks = BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 16 };
    assert!(matches!(client.read(SIZE, 512, false, &mut out), Err(Unfit::PastEnd { .. })));
    assert!(matches!(client.read(u64::MAX, 512, false, &mut out), Err(Unfit::PastEnd { .. })));
    assert!(matches!(client.read(1, 512, false, &mut out), Err(Unfit::Unaligned { .. })));
    assert!(matches!(client.read(0, 513, false, &mut out), Err(Unfit::Unaligned { .. })));
    assert!(matches!(client.read(0, 1 << 17, false, &mut out), Err(Unfit::TooLong { .. })));
    assert_eq!(client.read(0, 0, false, &mut out), Err(Unfit::Empty));
    assert!(matches!(client.read(0, 512, true, &mut out), Err(Unfit::NotOffered(_))));
    assert!(matches!(client.write(0, 512, true, &mut out), Err(Unfit::NotOffered(_))));
    assert!(matches!(client.flush(&mut out), Err(Unfit::NotOffered(_))));
    assert!(matches!(client.trim(0, 512, false, &mut out), Err(Unfit::NotOffered(_))));
    let flags = CommandFlags::empty();
    assert!(matches!(client.zero(0, 512, flags, &mut out), Err(Unfit::NotOffered(_))));
    assert!(matches!(client.cache(0, 512, &mut out), Err(Unfit::NotOffered(_))));
    assert!(matches!(client.extents(0, 512, false, &mut out), Err(Unfit::NotOffered(_))));
    client.terms.flags |= TransmissionFlags::READ_ONLY;
    assert_eq!(client.write(0, 512, false, &mut out), Err(Unfit::ReadOnly));
    assert_eq!(client.trim(0, 512, false, &mut out), Err(Unfit::ReadOnly));
    assert!(out.is_empty());
    assert_eq!(client.outstanding(), 0);
    assert_eq!(client.longest_range(), u64::from(u32::MAX) - 511);
}
