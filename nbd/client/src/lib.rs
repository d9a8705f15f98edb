//! A client of NBD servers.

pub mod client;
pub mod connect;
pub mod dial;
pub mod error;
pub mod extents;
pub mod timeout;
pub mod transfer;
