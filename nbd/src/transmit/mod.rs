//! Requests and replies after the negotiation ("Transmission").
//!
//! ```text
//! bytes -> Receiver (Request::peek -> check) -+-> Checked -> a disk ---+-> Replies -> Gather
//!                                             +-> Refused -------------+
//! ```
//!
//! [`Receiver`] is the server's end of the stream. [`check`] judges a request; it is a pure function.
//! [`client`] is the other end.

pub mod client;
mod receive;
mod replies;
mod validate;

pub use receive::{Ended, IN_PLACE, Received, Receiver};
pub use replies::{Extent, ReadPiece, Replies};
pub use validate::{Checked, MAX_DRAIN, MAX_PAYLOAD, Refused, check, payload_len};
