//! TLS from the outside: libnbd's and QEMU's clients, a client that says exactly what it is told
//! to, and nbdkit where it says the same thing.

mod access;
#[path = "../front/agent.rs"]
#[allow(dead_code, reason = "shared with the front tests")]
mod agent;
mod captive;
mod certificates;
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
