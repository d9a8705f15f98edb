//! TLS from the outside: libnbd's and QEMU's clients, a client that says exactly what it is told
//! to, and nbdkit where it says the same thing.

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

/// The agent that cargo has built for these tests.
const BINARY: &str = env!("CARGO_BIN_EXE_agent");
