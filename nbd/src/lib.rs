//! The NBD protocol, both ends, without I/O: bytes in, bytes out; no clock, no socket.
//!
//! ```text
//! server:  negotiate::Server --Done(Negotiated)--> transmit::{requests, validate, replies}
//! client:  negotiate::Client --Done(Terms)-------> transmit::client
//! ```
//!
//! Section names in the comments are those of `doc/proto.md` of the NBD project.

#![forbid(unsafe_code)]
#![deny(missing_docs, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]
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
