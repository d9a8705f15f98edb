//! A client of NBD servers.

pub mod client;
pub mod connect;
pub mod dial;
pub mod error;
pub mod extents;
pub mod socket;
pub mod stream;
pub mod timeout;
pub mod tls;
pub mod transfer;
