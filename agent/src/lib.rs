//! The agent: the host's side of a disk over NBD.
//!
//! The path from the command line to a disk, by modules: `cli` → `plan` → `startup` → `serve` → `listen` → `session` →
//! `exports` → `disk`.

mod access;
mod child;
mod cli;
mod command;
mod diagnosis;
mod event_loop;
mod exports;
mod fd_store;
mod filter;
mod gate;
mod layer;
mod lease;
mod lifecycle;
mod listen;
mod log;
mod machines;
mod params;
mod peer;
mod plan;
mod plugin;
mod primitives;
mod process;
mod program;
mod remote;
mod serve;
mod session;
mod shell;
mod stack;
mod startup;
mod sys;
mod tenant;
mod text;
mod tls;
mod transport;
mod units;

pub use program::main;
