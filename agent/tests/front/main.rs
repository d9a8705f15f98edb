//! The agent as a process: what it prints, where it listens, what it leaves behind.

mod access;
mod activation;
mod advice;
mod background;
mod captive;
mod data;
mod doctor;
mod dump;
mod durability;
mod endings;
mod engines;
mod exhaustion;
mod filters;
mod flags;
mod handed;
mod handshake;
mod inetd;
mod limit;
mod log;
mod made;
mod manager;
mod no_memory;
mod opening;
mod pid_file;
mod pipelined;
mod plugins;
mod rejudged;
mod remote;
mod remote_loss;
mod remote_silent;
mod remote_waits;
mod shape;
mod single;
mod sockets;
mod supervised;
mod units;
mod user;
mod vm;
mod watched;
mod words;

/// The agent, built by cargo for these tests.
const BINARY: &str = env!("CARGO_BIN_EXE_agent");
