//! A server that sends any bytes to the client: to its negotiation, or to its outstanding requests.

#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use nbd::{
    AgreedContext, BlockSizes, Framing, Terms,
    negotiate::{self, ClientStep, REPLY_LIMIT},
    transmit::client::{self, Event},
    wire::{CommandFlags, OptionReplyHeader, TransmissionFlags},
};
use nbd_fuzz::Setting;

/// The most questions of one run.
const QUESTIONS: usize = 20;

/// Everything that the client was told, and everything that it sent.
fn negotiation(setting: Setting, server: &[u8], piece: usize) -> (Vec<String>, Vec<u8>) {
    let mut told = Vec::new();
    let mut out = Vec::new();
    let mut there = Vec::new();
    let mut rest = server;
    let mut client = negotiate::Client::start(setting.framing());
    while told.len() < QUESTIONS {
        let (eaten, step) = client.step(&there, &mut out);
        there.drain(..eaten);
        let ready = match step {
            ClientStep::Feed(machine) => {
                assert!(there.len() < OptionReplyHeader::LEN + REPLY_LIMIT as usize);
                if rest.is_empty() {
                    told.push(format!("waiting for {}", machine.awaited()));
                    break;
                }
                let (head, tail) = rest.split_at(piece.min(rest.len()));
                there.extend_from_slice(head);
                rest = tail;
                client = machine;
                continue;
            }
            ClientStep::Ready(ready) => ready,
            ClientStep::Listed(ready, listed) => {
                told.push(format!("{listed:?}"));
                ready
            }
            ClientStep::Told(ready, described) => {
                told.push(format!("{described:?}"));
                ready
            }
            ClientStep::Contexts(ready, names) => {
                told.push(format!("{names:?}"));
                ready
            }
            // Not asked for.
            ClientStep::StartTls(tls) => panic!("{tls:?}"),
            ClientStep::Refused(ready, refusal) => {
                assert!(!refusal.to_string().contains(char::is_control));
                told.push(refusal.to_string());
                ready
            }
            ClientStep::Done(negotiated, described) => {
                let terms = negotiated.terms();
                assert!(i64::try_from(terms.size).is_ok() && terms.blocks.maximum > 0);
                assert!(terms.blocks.minimum.is_power_of_two());
                told.push(format!("{negotiated:?} {described:?}"));
                break;
            }
            ClientStep::End(violation) => {
                told.push(violation.to_string());
                break;
            }
        };
        client = match (setting.bits >> 4) % 4 {
            0 if told.is_empty() => ready.list(&mut out),
            1 if told.is_empty() => ready.info("disk", &mut out),
            2 => ready.go("disk", false, &mut out),
            _ => ready.go("disk", true, &mut out),
        };
    }
    (told, out)
}

/// Offset and length of what each request may give.
fn requests(client: &mut client::Client) -> HashMap<u64, (u64, u64)> {
    let mut out = Vec::new();
    let structured = client.terms().framing > Framing::Simple;
    let mut asked = HashMap::new();
    for (at, len) in [(0, 100), (512, 4096), (1 << 20, 1 << 19)] {
        asked.insert(client.read(at, len, false, &mut out).unwrap(), (at, len));
    }
    asked.insert(client.write(0, 10, true, &mut out).unwrap(), (0, 0));
    asked.insert(client.flush(&mut out).unwrap(), (0, 0));
    asked.insert(client.zero(5, 1000, CommandFlags::empty(), &mut out).unwrap(), (0, 0));
    if structured {
        asked.insert(client.read(0, 64, true, &mut out).unwrap(), (0, 64));
        asked.insert(client.extents(512, 5000, false, &mut out).unwrap(), (512, 1 << 21));
        asked.insert(client.extents(512, 5000, true, &mut out).unwrap(), (512, 5000));
    }
    asked
}

/// Everything that the client was told; runs of data put together.
fn transmission(setting: Setting, server: &[u8], piece: usize) -> Vec<String> {
    let framing = setting.framing();
    let mut flags = TransmissionFlags::from_bits_retain(0x0ffd);
    flags.set(TransmissionFlags::SEND_DF, framing > Framing::Simple);
    let names = ["base:allocation", "qemu:dirty-bitmap:b"];
    let contexts = names.into_iter().zip(1..).map(|(name, id)| AgreedContext::new(id, name));
    let contexts = contexts.filter(|_| framing > Framing::Simple).collect();
    let blocks = BlockSizes::default();
    let mut client =
        client::Client::new(Terms { size: 1 << 21, flags, framing, contexts, blocks, unit: 1 });
    let mut asked = requests(&mut client);
    let mut told = Vec::new();
    let mut data: Option<(u64, u64, Vec<u8>)> = None;
    let mut there = Vec::new();
    let mut rest = server;
    loop {
        let (eaten, event) = match client.step(&there) {
            Ok(stepped) => stepped,
            Err(violation) => {
                told.push(format!("{data:?}"));
                told.push(violation.to_string());
                return told;
            }
        };
        let none = event.is_none();
        match event {
            Some(Event::Data { cookie, at, bytes }) => {
                inside(&asked, cookie, at, bytes.len() as u64);
                match &mut data {
                    Some((same, start, all))
                        if *same == cookie && *start + all.len() as u64 == at =>
                    {
                        all.extend_from_slice(bytes);
                    }
                    other => {
                        told.push(format!("{other:?}"));
                        data = Some((cookie, at, bytes.to_vec()));
                    }
                }
            }
            Some(event) => {
                match &event {
                    Event::Hole { cookie, at, len } | Event::Extent { cookie, at, len, .. } => {
                        inside(&asked, *cookie, *at, *len);
                    }
                    Event::Done { cookie, .. } => {
                        asked.remove(cookie).expect("a request that was outstanding");
                    }
                    Event::Data { .. } => {}
                }
                told.push(format!("{:?} {event:?}", data.take()));
            }
            None => {}
        }
        there.drain(..eaten);
        assert_eq!(client.outstanding(), asked.len());
        if none {
            assert!(there.len() < client::Client::INPUT);
            if rest.is_empty() {
                told.push(format!("{data:?}"));
                return told;
            }
            let (head, tail) = rest.split_at(piece.min(rest.len()));
            there.extend_from_slice(head);
            rest = tail;
        }
    }
}

fn inside(asked: &HashMap<u64, (u64, u64)>, cookie: u64, at: u64, len: u64) {
    let (start, most) = asked[&cookie];
    assert!(len > 0 && at >= start);
    assert!(at + len <= start + most);
}

fuzz_target!(|input: &[u8]| {
    let Some((setting, server)) = Setting::split(input) else { return };
    if setting.bit(2) {
        let whole = transmission(setting, server, usize::MAX);
        assert_eq!(whole, transmission(setting, server, setting.piece));
    } else {
        let whole = negotiation(setting, server, usize::MAX);
        assert_eq!(whole, negotiation(setting, server, setting.piece));
    }
});
