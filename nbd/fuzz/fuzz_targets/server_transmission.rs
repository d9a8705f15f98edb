//! A client that sends any bytes to the server's transmission. Requests are judged and answered over a small
//! disk in memory, and the answers are parsed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{
    BlockSizes, Buffer, Framing, Gather, Terms,
    negotiate::{Context, Export, Negotiated},
    transmit::{
        Checked, Ended, Extent, IN_PLACE, MAX_PAYLOAD, ReadPiece, Received, Receiver, Replies,
    },
    wire::{
        ChunkHeader, ChunkType, Command, ExtentFlags, Request, SIMPLE_REPLY_LEN, SimpleReply,
        TransmissionFlags,
    },
};
use nbd_fuzz::{Setting, negotiated};

const SIZE: usize = 4096;
/// A run ends after so many bytes of answers.
const ENOUGH: u64 = 1 << 20;

fn agreed(setting: Setting) -> Negotiated {
    let mut flags = TransmissionFlags::from_bits_retain(0x0fff);
    flags.set(TransmissionFlags::READ_ONLY, setting.bit(2));
    let unit = if setting.bit(3) { 512 } else { 1 };
    let export = Export {
        size: SIZE as u64,
        flags,
        blocks: BlockSizes { minimum: unit, preferred: 4096, maximum: 1 << 20 },
        unit,
        name: None,
        description: None,
        contexts: vec![Context::with_extents("base:allocation")],
    };
    negotiated(setting.framing(), !setting.bit(4), &export)
}

fn range(at: u64, len: u64) -> std::ops::Range<usize> {
    let end = at.checked_add(len).expect("a range that was checked");
    assert!(end <= SIZE as u64, "a range past the end was let through");
    usize::try_from(at).unwrap()..usize::try_from(end).unwrap()
}

fn refuse(terms: &Terms, request: &Request, refused: nbd::transmit::Refused) -> Vec<u8> {
    assert!(!refused.text.is_empty());
    let mut out = Gather::default();
    Replies { out: &mut out, terms }.error(request, refused.errno, refused.text);
    bytes(&out)
}

fn bytes(out: &Gather<Vec<u8>>) -> Vec<u8> {
    let mut slices = Vec::new();
    out.slices(usize::MAX, &mut slices);
    slices.iter().flat_map(|slice| slice.to_vec()).collect()
}

fn answer(
    terms: &Terms,
    request: &Request,
    checked: Checked,
    payload: &[u8],
    disk: &mut [u8],
) -> Vec<u8> {
    let mut out = Gather::default();
    let mut replies = Replies { out: &mut out, terms };
    let half = |len: u64| [len / 2, len - len / 2];
    match checked {
        Checked::Read { at, len, df } => {
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
        Checked::Write { at, len, .. } => {
            disk[range(at, len.into())].copy_from_slice(payload);
            replies.done(request);
        }
        Checked::Zero { at, len, .. } | Checked::Trim { at, len, .. } => {
            disk[range(at, len)].fill(0);
            replies.done(request);
        }
        Checked::Extents { at, len, one } => {
            range(at, len);
            let extents = half(len).map(|len| Extent { len, flags: ExtentFlags::HOLE });
            replies.extents(request, one, |_| extents);
        }
        Checked::Cache { at, len } => {
            range(at, len);
            replies.done(request);
        }
        _ => replies.done(request),
    }
    bytes(&out)
}

/// Checks that all messages are complete, in the agreed framing, and for this request.
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

/// The answers, and how the run ended.
fn run(setting: Setting, client: &[u8], piece: usize) -> (Vec<u8>, String) {
    let mut server = Receiver::new(agreed(setting), ENOUGH);
    let mut buffer = Buffer::new(vec![0; IN_PLACE + 64].into());
    let mut disk = vec![7; SIZE];
    let mut payload = Vec::new();
    let mut out = Vec::new();
    let mut rest = client;
    loop {
        let received = match server.next(&mut buffer) {
            Ok(received) => received,
            Err(violation) => return (out, violation.to_string()),
        };
        let (request, reply) = match received {
            Received::Incomplete => {
                if rest.is_empty() {
                    // How much of a payload was taken depends on the cuts; whether it is whole does not.
                    return (out, format!("inside a message: {}", server.is_inside(&buffer)));
                }
                let spare = buffer.spare();
                let n = piece.min(rest.len()).min(spare.len());
                spare[..n].copy_from_slice(&rest[..n]);
                buffer.added(n);
                rest = &rest[n..];
                continue;
            }
            Received::Request { request, checked, payload } => {
                let data = buffer.filled()[..payload].to_vec();
                buffer.consume(payload);
                (request, answer(server.terms(), &request, checked, &data, &mut disk))
            }
            Received::Write { .. } => {
                payload.clear();
                continue;
            }
            Received::Payload(n) => {
                payload.extend_from_slice(&buffer.filled()[..n]);
                buffer.consume(n);
                continue;
            }
            Received::Written { request, checked } => {
                (request, answer(server.terms(), &request, checked, &payload, &mut disk))
            }
            Received::Refused { request, refused } => {
                (request, refuse(server.terms(), &request, refused))
            }
            Received::End(Ended::Disconnected(_)) => return (out, "disconnected".to_owned()),
            Received::End(Ended::TooLong(_)) => return (out, "a long write".to_owned()),
        };
        check_reply(server.terms(), &request, &reply);
        out.extend(reply);
        if out.len() as u64 > ENOUGH {
            return (out, "enough".to_owned());
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((setting, client)) = Setting::split(input) else { return };
    let whole = run(setting, client, usize::MAX);
    assert_eq!(whole, run(setting, client, setting.piece));
});
