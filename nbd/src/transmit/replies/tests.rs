use super::*;
use crate::{
    BlockSizes,
    wire::{Command, CommandFlags, TransmissionFlags},
};

fn terms(framing: Framing) -> Terms {
    Terms {
        size: 1 << 40,
        flags: TransmissionFlags::HAS_FLAGS,
        framing,
        contexts: vec![AgreedContext::new(7, "base:allocation")],
        blocks: BlockSizes::default(),
        unit: 1,
    }
}

fn request(offset: u64, len: u64) -> Request {
    Request { flags: CommandFlags::empty(), command: Command::READ, cookie: 5, offset, len }
}

fn bytes(framing: Framing, put: impl FnOnce(&mut Replies<'_, Vec<u8>>)) -> Vec<u8> {
    let mut out = Gather::default();
    put(&mut Replies { out: &mut out, terms: &terms(framing) });
    let mut slices = Vec::new();
    out.slices(1024, &mut slices);
    slices.iter().flat_map(|slice| slice.to_vec()).collect()
}

/// The chunks of a reply: flags, type, payload.
fn chunks(mut bytes: &[u8], extended: bool) -> Vec<(bool, ChunkType, Vec<u8>)> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let header = ChunkHeader::peek(bytes, extended).unwrap().unwrap();
        let body = &bytes[ChunkHeader::wire_len(extended)..];
        let len = usize::try_from(header.len).unwrap();
        assert_eq!(header.cookie, 5);
        chunks.push((header.flags.contains(ChunkFlags::DONE), header.kind, body[..len].to_vec()));
        bytes = &body[len..];
    }
    chunks
}

fn mixed() -> impl ExactSizeIterator<Item = ReadPiece<Vec<u8>>> {
    vec![
        ReadPiece::Data(vec![1; 10]),
        ReadPiece::Data(vec![2; 10]),
        ReadPiece::Hole(100),
        ReadPiece::Data(vec![3; 8]),
    ]
    .into_iter()
}

#[test]
fn a_sparse_read_carries_no_zeroes() {
    for framing in [Framing::Structured, Framing::Extended] {
        let got = bytes(framing, |r| r.read(&request(1000, 128), false, mixed()));
        let got = chunks(&got, framing == Framing::Extended);
        let data = |at: u64, parts: &[&[u8]]| [&at.to_be_bytes()[..], &parts.concat()].concat();
        assert_eq!(
            got,
            [
                (false, ChunkType::OFFSET_DATA, data(1000, &[&[1; 10], &[2; 10]])),
                (
                    false,
                    ChunkType::OFFSET_HOLE,
                    [&1020u64.to_be_bytes()[..], &100u32.to_be_bytes()].concat()
                ),
                (true, ChunkType::OFFSET_DATA, data(1120, &[&[3; 8]])),
            ]
        );
    }
}

#[test]
fn a_read_that_ends_in_a_hole_is_done_there() {
    let pieces = vec![ReadPiece::Data(vec![1; 4]), ReadPiece::Hole(4)].into_iter();
    let got = bytes(Framing::Structured, |r| r.read(&request(0, 8), false, pieces));
    let done: Vec<bool> = chunks(&got, false).iter().map(|chunk| chunk.0).collect();
    assert_eq!(done, [false, true]);
}

#[test]
fn df_gives_one_chunk() {
    let got = bytes(Framing::Structured, |r| r.read(&request(1000, 128), true, mixed()));
    let got = chunks(&got, false);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].1, ChunkType::OFFSET_DATA);
    assert_eq!(got[0].2.len(), 8 + 128);
    assert_eq!(&got[0].2[8 + 20..8 + 120], &[0; 100]);

    let hole = vec![ReadPiece::Hole(128)].into_iter();
    let got = bytes(Framing::Structured, |r| r.read(&request(1000, 128), true, hole));
    assert_eq!(chunks(&got, false)[0].1, ChunkType::OFFSET_HOLE, "one chunk");
}

#[test]
fn a_simple_read_is_a_header_and_the_bytes() {
    let got = bytes(Framing::Simple, |r| r.read(&request(1000, 128), false, mixed()));
    assert_eq!(SimpleReply::peek(&got), Ok(Some(SimpleReply { error: Errno(0), cookie: 5 })));
    assert_eq!(got.len(), 16 + 128);
    assert_eq!(&got[16 + 20..16 + 120], &[0; 100]);
}

#[test]
fn an_error_has_a_text_where_the_framing_has_room_for_one() {
    let error = |framing| bytes(framing, |r| r.error(&request(3, 4), Errno::EIO, "went wrong"));
    assert_eq!(error(Framing::Simple).len(), 16);
    for framing in [Framing::Structured, Framing::Extended] {
        let got = chunks(&error(framing), framing == Framing::Extended);
        let payload = [&5u32.to_be_bytes()[..], &10u16.to_be_bytes(), b"went wrong"].concat();
        assert_eq!(got, [(true, ChunkType::ERROR, payload)]);
    }
    let long = "\u{e9}".repeat(5000);
    let got = bytes(Framing::Structured, |r| r.error(&request(3, 4), Errno::EIO, &long));
    assert!(got.len() <= 20 + 6 + 1024);
}

#[test]
fn extended_replies_are_extended_even_without_data() {
    let got = bytes(Framing::Extended, |r| r.done(&request(3, 4)));
    assert_eq!(chunks(&got, true), [(true, ChunkType::NONE, vec![])]);
    let header = ChunkHeader::peek(&got, true).unwrap().unwrap();
    assert_eq!(header.offset, 3);
}

const DATA: ExtentFlags = ExtentFlags::empty();

fn extents(framing: Framing, len: u64, one: bool, list: &[(u64, ExtentFlags)]) -> Vec<(u64, u64)> {
    let list = list.iter().map(|&(len, flags)| Extent { len, flags });
    let got = bytes(framing, |r| r.extents(&request(0, len), one, |_| list.clone()));
    let got = chunks(&got, framing == Framing::Extended);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].2[..4], 7u32.to_be_bytes());
    if framing == Framing::Extended {
        let numbers: Vec<u64> =
            got[0].2[8..].chunks(8).map(|b| u64::from_be_bytes(b.try_into().unwrap())).collect();
        assert_eq!(usize::from(got[0].2[7]), numbers.len() / 2);
        numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect()
    } else {
        let numbers: Vec<u32> =
            got[0].2[4..].chunks(4).map(|b| u32::from_be_bytes(b.try_into().unwrap())).collect();
        numbers.chunks(2).map(|pair| (pair[0].into(), pair[1].into())).collect()
    }
}

#[test]
fn extents_are_merged_and_clipped() {
    let hole = ExtentFlags::HOLE | ExtentFlags::ZERO;
    let list = [(10, DATA), (10, DATA), (5, hole), (100, DATA)];
    for framing in [Framing::Structured, Framing::Extended] {
        assert_eq!(extents(framing, 30, false, &list), [(20, 0), (5, 3), (5, 0)]);
        assert_eq!(extents(framing, 15, false, &list), [(15, 0)]);
        assert_eq!(extents(framing, 30, true, &list), [(20, 0)], "REQ_ONE");
        assert_eq!(extents(framing, 15, true, &list), [(15, 0)], "REQ_ONE inside the request");
    }
}

#[test]
fn lengths_of_32_bits_fit_and_longer_ones_need_extended_replies() {
    let max = u64::from(u32::MAX);
    assert_eq!(extents(Framing::Structured, max, false, &[(1 << 40, DATA)]), [(max, 0)]);
    assert_eq!(extents(Framing::Extended, 1 << 40, false, &[(1 << 50, DATA)]), [(1 << 40, 0)]);
}

#[test]
fn each_agreed_context_has_a_chunk_with_extents_of_its_own() {
    for framing in [Framing::Structured, Framing::Extended] {
        let mut terms = terms(framing);
        terms.contexts.push(AgreedContext::new(9, "qemu:dirty-bitmap:backup"));
        let mut out = Gather::<Vec<u8>>::default();
        let mut replies = Replies { out: &mut out, terms: &terms };
        replies.extents(&request(0, 100), false, |context| {
            let dirty = ExtentFlags::from_bits_retain(1);
            match &*context.name {
                "base:allocation" => vec![Extent { len: 100, flags: DATA }],
                _ => vec![Extent { len: 60, flags: dirty }, Extent { len: 60, flags: DATA }],
            }
        });
        let mut slices = Vec::new();
        out.slices(1024, &mut slices);
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let chunks = chunks(&bytes, framing == Framing::Extended);
        let ids: Vec<_> = chunks.iter().map(|chunk| chunk.2[..4].to_vec()).collect();
        assert_eq!(ids, [7u32.to_be_bytes(), 9u32.to_be_bytes()]);
        let done: Vec<bool> = chunks.iter().map(|chunk| chunk.0).collect();
        assert_eq!(done, [false, true], "the last chunk ends the reply");
        let (head, extent) = if framing == Framing::Extended { (8, 16) } else { (4, 8) };
        let counts: Vec<_> = chunks.iter().map(|chunk| (chunk.2.len() - head) / extent).collect();
        assert_eq!(counts, [1, 2]);
    }
}
