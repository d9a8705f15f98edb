//! A client that says anything to the server's transmission: requests are judged and answered over
//! a small disk in memory, and the answers are read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{
    BlockSizes, Framing, Gather, Terms,
    transmit::{Checked, Extent, MAX_PAYLOAD, ReadPiece, Replies, check, payload_len},
    wire::{
        ChunkHeader, ChunkType, Command, ExtentFlags, Request, SIMPLE_REPLY_LEN, SimpleReply,
        TransmissionFlags,
    },
};
use nbd_fuzz::Setting;

const SIZE: usize = 4096;
/// Where a run has shown enough.
const ENOUGH: u64 = 1 << 20;

fn terms(setting: Setting) -> Terms {
    let mut flags = TransmissionFlags::from_bits_retain(0x0fff);
    flags.set(TransmissionFlags::READ_ONLY, setting.bit(2));
    flags.set(TransmissionFlags::SEND_DF, setting.framing() > Framing::Simple);
    let minimum = if setting.bit(3) { 512 } else { 1 };
    Terms {
        size: SIZE as u64,
        flags,
        framing: setting.framing(),
        allocation: (setting.framing() > Framing::Simple && !setting.bit(4)).then_some(1),
        blocks: BlockSizes { minimum, preferred: 4096, maximum: 1 << 20 },
    }
}

fn range(at: u64, len: u64) -> std::ops::Range<usize> {
    let end = at.checked_add(len).expect("a range that was checked");
    assert!(end <= SIZE as u64, "a range past the end was let through");
    usize::try_from(at).unwrap()..usize::try_from(end).unwrap()
}

fn answer(terms: &Terms, request: &Request, payload: &[u8], disk: &mut [u8]) -> Vec<u8> {
    let mut out = Gather::default();
    let mut replies = Replies { out: &mut out, terms };
    let half = |len: u64| [len / 2, len - len / 2];
    match check(terms, request) {
        Err(refused) => {
            assert!(!refused.text.is_empty());
            replies.error(request, refused.errno, refused.text);
        }
        Ok(Checked::Read { at, len, df }) => {
            assert!(len <= MAX_PAYLOAD);
            let bytes = disk[range(at, len.into())].to_vec();
            let [hole, _] = half(len.into());
            let tail = bytes[usize::try_from(hole).unwrap()..].to_vec();
            let pieces = if hole > 0 && at % 2 == 1 {
                vec![ReadPiece::Hole(hole), ReadPiece::Data(tail)]
            } else {
                vec![ReadPiece::Data(bytes)]
            };
            replies.read(request, df, pieces.into_iter());
        }
        Ok(Checked::Write { at, len, .. }) => {
            disk[range(at, len.into())].copy_from_slice(payload);
            replies.done(request);
        }
        Ok(Checked::Zero { at, len, .. } | Checked::Trim { at, len, .. }) => {
            disk[range(at, len)].fill(0);
            replies.done(request);
        }
        Ok(Checked::Extents { at, len, one }) => {
            range(at, len);
            let extents = half(len).map(|len| Extent { len, flags: ExtentFlags::HOLE });
            replies.extents(request, one, extents.into_iter());
        }
        Ok(Checked::Cache { at, len }) => {
            range(at, len);
            replies.done(request);
        }
        Ok(_) => replies.done(request),
    }
    let mut slices = Vec::new();
    out.slices(usize::MAX, &mut slices);
    slices.iter().flat_map(|slice| slice.to_vec()).collect()
}

/// Whole messages in the framing that was agreed, all to this request.
fn check_reply(terms: &Terms, request: &Request, mut bytes: &[u8]) {
    if let Ok(Some(reply)) = SimpleReply::peek(bytes) {
        assert_eq!(reply.cookie, request.cookie);
        assert!(terms.framing < Framing::Extended);
        let reads = request.command == Command::READ;
        assert!(!reads || terms.framing == Framing::Simple, "a simple reply to a read");
        let payload = if reads && reply.error.0 == 0 { request.len } else { 0 };
        assert_eq!(bytes.len() as u64, SIMPLE_REPLY_LEN as u64 + payload);
        return;
    }
    let extended = terms.framing == Framing::Extended;
    while !bytes.is_empty() {
        let header = ChunkHeader::peek(bytes, extended).unwrap().expect("a whole header");
        assert_eq!(header.cookie, request.cookie);
        assert_ne!((header.kind, extended), (ChunkType::BLOCK_STATUS, true));
        let whole = ChunkHeader::wire_len(extended) + usize::try_from(header.len).unwrap();
        bytes = bytes.get(whole..).expect("a whole chunk");
    }
}

/// The answers, and how it ended.
fn run(setting: Setting, client: &[u8], piece: usize) -> (Vec<u8>, String) {
    let terms = terms(setting);
    let extended = terms.framing == Framing::Extended;
    let mut disk = vec![7; SIZE];
    let mut out = Vec::new();
    let mut there = Vec::new();
    let mut rest = client;
    loop {
        loop {
            let request = match Request::peek(&there, extended) {
                Ok(Some(request)) => request,
                Ok(None) => break,
                Err(violation) => return (out, violation.to_string()),
            };
            if request.command == Command::DISC {
                return (out, "disconnected".to_owned());
            }
            let payload = match payload_len(&terms, &request) {
                Ok(len) if len > ENOUGH => return (out, "a long payload".to_owned()),
                Ok(len) => usize::try_from(len).unwrap(),
                Err(violation) => return (out, violation.to_string()),
            };
            let header = Request::wire_len(extended);
            let Some(data) = there.get(header..header + payload) else { break };
            let reply = answer(&terms, &request, data, &mut disk);
            check_reply(&terms, &request, &reply);
            out.extend(reply);
            there.drain(..header + payload);
            if out.len() as u64 > ENOUGH {
                return (out, "enough".to_owned());
            }
        }
        if rest.is_empty() {
            return (out, format!("{} bytes left", there.len()));
        }
        let (head, tail) = rest.split_at(piece.min(rest.len()));
        there.extend_from_slice(head);
        rest = tail;
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((setting, client)) = Setting::split(input) else { return };
    let whole = run(setting, client, usize::MAX);
    assert_eq!(whole, run(setting, client, setting.piece));
});
