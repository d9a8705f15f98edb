//! TLS tested from outside: libnbd's and QEMU's clients, a client that sends exactly what it is
//! told to, and nbdkit where it behaves the same.

mod access;
mod captive;
mod client;
mod hostile;
mod interop;
mod modes;
mod peers;
#[cfg(feature = "psk")]
mod psk;
mod reload;
mod remote;
mod start;

/// The agent, built by cargo for these tests.
const BINARY: &str = env!("CARGO_BIN_EXE_agent");
