//! The NBD protocol, both ends, as state machines without I/O: bytes in, bytes out. Sockets, TLS, clocks,
//! threads and disks belong to the caller.
//!
//! ```text
//! server:  negotiate::Server --Done(Negotiated)--> transmit::{Receiver, Replies}
//! client:  negotiate::Client --Done(Negotiated)--> transmit::client::Client
//! ```
//!
//! The documentation names sections of `doc/proto.md` of the NBD project in double quotes and
//! parentheses, as in ("Option types"). Lengths and offsets are bytes unless stated otherwise.
//!
//! Both ends of a negotiation, in memory. A program sends `up` and `down` over a socket instead;
//! `examples/serve_memory.rs` is a whole server.
//!
//! ```
//! use nbd::{BlockSizes, Framing, Refusal, negotiate, wire::BASE_ALLOCATION};
//! use nbd::negotiate::{Ask, ClientStep, Context, Export, Offers, Server, Step};
//!
//! let export = Export {
//!     size: 1 << 20,
//!     flags: nbd::wire::TransmissionFlags::SEND_FLUSH,
//!     blocks: BlockSizes::default(),
//!     unit: 1,
//!     name: None,
//!     description: Some("a disk".to_owned()),
//!     contexts: vec![Context::with_extents(BASE_ALLOCATION)],
//! };
//! let (mut up, mut down) = (Vec::new(), Vec::new());
//! let mut server = Server::start(Offers::default(), &mut down);
//! let mut client = negotiate::Client::start(Framing::Extended);
//! let negotiated = loop {
//!     let (consumed, step) = client.step(&down, &mut up);
//!     down.drain(..consumed);
//!     client = match step {
//!         ClientStep::Feed(client) => client,
//!         ClientStep::Ready(ready) => ready.go("disk", true, &mut up),
//!         ClientStep::Done(negotiated, _) => break negotiated,
//!         other => panic!("{other:?}"),
//!     };
//!     let (consumed, step) = server.step(&up, &mut down);
//!     up.drain(..consumed);
//!     let step = match step {
//!         Step::Ask(Ask::Export(ask)) if ask.name() == "disk" => {
//!             ask.answer(Ok(export.clone()), &mut down)
//!         }
//!         Step::Ask(Ask::Export(ask)) => {
//!             let refusal = Refusal::unknown(ask.name());
//!             ask.answer(Err(refusal), &mut down)
//!         }
//!         step => step,
//!     };
//!     server = match step {
//!         Step::Feed(server) => server,
//!         // The server's proof that a transmission may begin. The client reads the rest of `down`.
//!         Step::Done(_) => Server::start(Offers::default(), &mut Vec::new()),
//!         other => panic!("{other:?}"),
//!     };
//! };
//! assert_eq!(negotiated.terms().size, 1 << 20);
//! assert_eq!(negotiated.terms().framing, Framing::Extended);
//! assert!(negotiated.terms().context(BASE_ALLOCATION).is_some());
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::missing_errors_doc, clippy::missing_panics_doc)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic))]

mod buffer;
mod error;
mod gather;
pub mod negotiate;
mod terms;
pub mod transmit;
pub mod uri;
pub mod wire;

pub use buffer::Buffer;
pub use error::{Refusal, Violation};
pub use gather::{Gather, Payload};
pub use terms::{AgreedContext, BlockSizes, Framing, Terms};
pub use uri::Uri;
