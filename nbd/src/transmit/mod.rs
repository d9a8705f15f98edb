//! Requests and replies after the negotiation.
//!
//! ```text
//! bytes -> Request::peek -> payload_len -> check(Terms) -+-> Checked -> (a disk) -+-> replies -> Gather
//!                                                        +-> Refused -------------+
//! ```
//!
//! `check` is a pure function; the payload of a request is there or must be skipped whatever
//! it says.

pub mod client;
mod replies;
mod validate;

pub use replies::{Extent, ReadPiece, Replies};
pub use validate::{Checked, MAX_DRAIN, MAX_PAYLOAD, Refused, check, payload_len};
