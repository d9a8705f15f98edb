#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod client;
pub mod connect;
mod connector;
pub mod dial;
pub mod error;
pub mod extents;
pub mod socket;
pub mod stream;
pub mod timeout;
pub mod tls;
pub mod transfer;
pub mod wait;

pub use self::{
    client::{Client, Done, Extent, Order, Verb},
    connector::Connector,
    error::ClientError,
    timeout::Timeout,
};
/// The cryptography that a `Connector` and a TLS configuration take.
pub use rustls::crypto::CryptoProvider;
