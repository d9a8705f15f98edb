//! The shared parts of the fuzz targets. The first bytes of an input choose the setting, and the peer sends the
//! rest, once as a whole and once in pieces. Both runs must have the same result.

#![forbid(unsafe_code)]

use nbd::{
    Framing,
    negotiate::{Ask, Client, ClientStep, Export, Negotiated, Offers, Server, Step},
};

/// The setting of a run.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Choices of the target.
    pub bits: u8,
    /// The length of a piece in the run in pieces, in bytes; at least 1.
    pub piece: usize,
}

impl Setting {
    /// Takes the setting off the front of an input.
    pub fn split(input: &[u8]) -> Option<(Self, &[u8])> {
        let (&[bits, piece], rest) = input.split_first_chunk()?;
        Some((Self { bits, piece: usize::from(piece) + 1 }, rest))
    }

    /// The two lowest bits.
    pub fn framing(self) -> Framing {
        match self.bits & 3 {
            0 => Framing::Simple,
            1 => Framing::Structured,
            _ => Framing::Extended,
        }
    }

    /// One of the other bits, from 2 to 7.
    pub fn bit(self, index: u8) -> bool {
        self.bits & (1 << index) != 0
    }
}

/// Negotiates between both ends of the crate, with an export that `export` describes.
///
/// # Panics
/// If the negotiation fails.
pub fn negotiated(framing: Framing, allocation: bool, export: &Export) -> Negotiated {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let mut server = Server::start(Offers::default(), &mut down);
    let mut client = Client::start(framing);
    loop {
        let input = std::mem::take(&mut down);
        let mut there = input.as_slice();
        loop {
            let (eaten, step) = client.step(there, &mut up);
            there = &there[eaten..];
            client = match step {
                ClientStep::Feed(next) => {
                    client = next;
                    break;
                }
                ClientStep::Ready(ready) => ready.go("disk", allocation, &mut up),
                other => panic!("{other:?}"),
            };
        }
        let input = std::mem::take(&mut up);
        let mut there = input.as_slice();
        loop {
            let (eaten, mut step) = server.step(there, &mut down);
            there = &there[eaten..];
            if let Step::Ask(Ask::Export(ask)) = step {
                step = ask.answer(Ok(export.clone()), &mut down);
            }
            match step {
                Step::Done(negotiated) => return negotiated,
                Step::Feed(next) => {
                    server = next;
                    if there.is_empty() {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
