//! The negotiation: whatever the client wants and the server offers, both ends come to the same terms.

use nbd::{
    BlockSizes, Framing, Refusal,
    negotiate::{
        Ask, Client, ClientStep, Context, Described, Export, Negotiated, Offers, Server, Step,
    },
    wire::{BASE_ALLOCATION, TransmissionFlags},
};
use proptest::{collection::vec, prelude::*, sample::subsequence};

use crate::{Pipe, framing};

/// Bytes of the disk.
pub(crate) const SIZE: u16 = 40_960;

/// The contexts of the export, in the server's order.
const CONTEXTS: [&str; 2] = [BASE_ALLOCATION, "x-test:map"];

fn export(size: u64) -> Export {
    Export {
        size,
        flags: TransmissionFlags::from_bits_retain(0b1101_0110_1101),
        blocks: BlockSizes { minimum: 1, preferred: 4096, maximum: 1 << 20 },
        unit: 1,
        name: Some("canonical".to_owned()),
        description: Some("a disk".to_owned()),
        contexts: CONTEXTS.map(Context::with_extents).to_vec(),
    }
}

/// A question of the client.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    List,
    Info(String),
    Contexts(String),
    /// Enters the export, with these contexts.
    Go(String, Vec<&'static str>),
}

fn wish() -> impl Strategy<Value = Wish> {
    let name = prop_oneof![Just(String::new()), Just("disk".to_owned()), "[a-z]{0,300}"];
    prop_oneof![
        Just(Wish::List),
        name.clone().prop_map(Wish::Info),
        name.clone().prop_map(Wish::Contexts),
        (name, subsequence(&CONTEXTS[..], 0..=2)).prop_map(|(name, wanted)| Wish::Go(name, wanted)),
    ]
}

/// Runs a negotiation to its end. The bytes that are left in the pipes belong to the transmission.
pub(crate) fn negotiate(
    wish: Framing,
    offers: Offers,
    wishes: &[Wish],
    cuts: &[usize],
) -> (Negotiated, Negotiated, Described) {
    let (mut up, mut down) = (Pipe::new(cuts), Pipe::new(cuts));
    let mut out = Vec::new();
    let mut server = Some(Server::start(offers, &mut out));
    down.send(&mut out);
    let mut client = Some(Client::start(wish));
    let (mut served, mut entered) = (None, None);
    // After the given questions the client enters an export that exists.
    let last = Wish::Go("disk".to_owned(), CONTEXTS.to_vec());
    let mut wishes = wishes.iter().chain([&last]);
    while served.is_none() || entered.is_none() {
        let moved = (up.arrive(), down.arrive());
        let waits = client.as_ref().map(Client::awaited);
        while let Some(machine) = client.take() {
            let (eaten, step) = machine.step(&down.there, &mut out);
            down.consume(eaten);
            let ready = match step {
                ClientStep::Feed(machine) => {
                    client = Some(machine);
                    break;
                }
                ClientStep::Done(negotiated, described) => {
                    entered = Some((negotiated, described));
                    break;
                }
                ClientStep::Ready(ready)
                | ClientStep::Refused(ready, _)
                | ClientStep::Listed(ready, _)
                | ClientStep::Contexts(ready, _)
                | ClientStep::Told(ready, _) => ready,
                ClientStep::StartTls(tls) => panic!("{tls:?}"),
                ClientStep::End(violation) => panic!("{violation}"),
            };
            client = Some(match wishes.next().expect("the last wish is granted") {
                Wish::List => ready.list(&mut out),
                Wish::Info(name) => ready.info(name, &mut out),
                Wish::Contexts(name) => ready.contexts(name, &mut out),
                Wish::Go(name, contexts) => ready.go_with(name, contexts.iter().copied(), &mut out),
            });
        }
        up.send(&mut out);
        while let Some(machine) = server.take() {
            let (eaten, mut step) = machine.step(&up.there, &mut out);
            up.consume(eaten);
            let asked = matches!(step, Step::Ask(_));
            step = match step {
                Step::Ask(Ask::List(ask)) => {
                    ask.answer(Ok([("disk", Some("a disk")), ("", None)]), &mut out)
                }
                Step::Ask(Ask::Export(ask)) => {
                    let known = ask.name() == "disk";
                    let unknown = Refusal::unknown(ask.name());
                    let answer = if known { Ok(export(SIZE.into())) } else { Err(unknown) };
                    ask.answer(answer, &mut out)
                }
                other => other,
            };
            match step {
                Step::Feed(machine) => server = Some(machine),
                Step::Done(negotiated) => served = Some(negotiated),
                other => panic!("{other:?}"),
            }
            if !asked {
                break;
            }
        }
        let sent = !out.is_empty();
        down.send(&mut out);
        let moved = moved.0 || moved.1 || sent || !up.bytes.is_empty();
        assert!(moved || !down.bytes.is_empty(), "both wait: {waits:?}");
    }
    let (entered, described) = entered.unwrap();
    (served.unwrap(), entered, described)
}

proptest! {
    #[test]
    fn both_ends_agree_on_the_terms(
        wish in framing(),
        offers in any::<[bool; 4]>(),
        wishes in vec(wish(), 0..5),
        cuts in vec(1_usize..200, 1..8),
    ) {
        let [structured, extended, contexts, no_zeroes] = offers;
        let offers = Offers { structured, extended, contexts, no_zeroes, ..Offers::default() };
        let (served, entered, described) = negotiate(wish, offers, &wishes, &cuts);
        prop_assert_eq!(&served, &entered);
        prop_assert_eq!(described.description.as_deref(), Some("a disk"));
        let terms = served.terms();
        let framed = match wish {
            Framing::Extended if extended => Framing::Extended,
            Framing::Extended | Framing::Structured if structured => Framing::Structured,
            _ => Framing::Simple,
        };
        prop_assert_eq!(terms.framing, framed);
        let chosen = wishes.iter().find_map(|wish| match wish {
            Wish::Go(name, contexts) if name == "disk" => Some(contexts.clone()),
            _ => None,
        });
        let possible = contexts && framed >= Framing::Structured;
        let due = if possible { chosen.unwrap_or_else(|| CONTEXTS.to_vec()) } else { Vec::new() };
        let agreed: Vec<_> = terms.contexts.iter().map(|context| &*context.name).collect();
        prop_assert_eq!(agreed, due);
    }
}
