//! A client that sends any bytes to the server's negotiation.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{
    BlockSizes, Refusal, Violation,
    negotiate::{Ask, Context, Ending, Export, Offers, Server, Step, Tls},
    wire::{OptionReplyHeader, TransmissionFlags},
};
use nbd_fuzz::Setting;

/// The modes with TLS, by the lowest bit of the setting.
const TLS: [Tls; 2] = [Tls::On, Tls::Require];

/// The result of an input with bytes after STARTTLS, however they are cut.
const INJECTED: (String, Vec<u8>, usize) = (String::new(), Vec::new(), 0);

/// The final state, the bytes that were sent, and the number of bytes that were left.
fn run(setting: Setting, client: &[u8], piece: usize) -> (String, Vec<u8>, usize) {
    let offers = Offers {
        structured: !setting.bit(2),
        extended: !setting.bit(3),
        contexts: !setting.bit(4),
        no_zeroes: !setting.bit(5),
        tls: if setting.bit(7) { TLS[usize::from(setting.bits & 1)] } else { Tls::Off },
        ..Offers::default()
    };
    let mut out = Vec::new();
    let mut server = Server::start(offers, &mut out);
    if setting.bit(6) {
        server.drain();
    }
    let mut there = Vec::new();
    let mut rest = client;
    loop {
        let (eaten, step) = server.step(&there, &mut out);
        there.drain(..eaten);
        let hungry = matches!(step, Step::Feed(_));
        let step = match step {
            Step::Ask(Ask::List(ask)) => {
                ask.answer(Ok([("", None), ("disk", Some("x"))]), &mut out)
            }
            Step::Ask(Ask::Export(ask)) if ask.name().starts_with('x') => {
                let refusal = Refusal::unknown(ask.name());
                ask.answer(Err(refusal), &mut out)
            }
            Step::Ask(Ask::Export(ask)) => ask.answer(Ok(export()), &mut out),
            other => other,
        };
        server = match step {
            Step::Feed(server) => server,
            Step::StartTls(start) if there.is_empty() && rest.is_empty() => {
                drop(start.secured());
                return ("secured".to_owned(), out, 0);
            }
            // In one piece they are a violation; in pieces they would reach the handshake.
            Step::StartTls(_) | Step::End(Ending::Violation(Violation::BehindStartTls(_))) => {
                return INJECTED;
            }
            Step::Done(done) => return (format!("{done:?}"), out, there.len() + rest.len()),
            Step::End(ending) => return (format!("{ending:?}"), out, 0),
            Step::Ask(_) => unreachable!("an answer asks nothing"),
        };
        if hungry {
            // Less than one option waits, which bounds the memory of a peer.
            assert!(there.len() < Server::INPUT);
            if rest.is_empty() {
                return ("waiting".to_owned(), out, there.len());
            }
            let (head, tail) = rest.split_at(piece.min(rest.len()));
            there.extend_from_slice(head);
            rest = tail;
        }
    }
}

fn export() -> Export {
    Export {
        size: 1 << 20,
        flags: TransmissionFlags::from_bits_retain(0xffff),
        blocks: BlockSizes::default(),
        unit: 1,
        name: Some("canonical".to_owned()),
        description: Some("a disk".to_owned()),
        contexts: vec![
            Context::with_extents("base:allocation"),
            Context::with_extents("qemu:dirty-bitmap:b"),
            Context::fact("x-test:fact", "x-test:fact=1"),
        ],
    }
}

/// Checks that the replies are complete and that each error has a text. The answer to EXPORT_NAME may be last.
fn check_replies(mut out: &[u8]) {
    out = out.get(18..).expect("the greeting");
    while let Ok(Some(header)) = OptionReplyHeader::peek(out) {
        let whole = OptionReplyHeader::LEN + header.len as usize;
        assert!(!header.code.is_error() || header.len > 0, "an error without a text");
        out = out.get(whole..).expect("a whole reply");
    }
    assert!([0, 10, 134].contains(&out.len()), "{} bytes that are no reply", out.len());
}

fuzz_target!(|input: &[u8]| {
    let Some((setting, client)) = Setting::split(input) else { return };
    let whole = run(setting, client, usize::MAX);
    if whole != INJECTED {
        check_replies(&whole.1);
    }
    assert_eq!(whole, run(setting, client, setting.piece));
});
