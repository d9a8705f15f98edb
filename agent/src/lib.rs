//! The agent: the host's side of a disk over NBD.
//!
//! The path from the command line to a disk, by modules: `cli` → `plan` → `startup` → `serve` → `listen` → `session` →
//! `exports` → `disk`.

pub mod access;
mod child;
pub mod cli;
pub mod command;
mod diagnosis;
mod event_loop;
pub mod exports;
pub mod filter;
pub mod gate;
pub mod layer;
pub mod lease;
pub mod lifecycle;
pub mod listen;
pub mod log;
pub mod machines;
pub mod params;
pub mod peer;
pub mod plan;
pub mod plugin;
mod primitives;
pub mod process;
pub mod remote;
pub mod serve;
pub mod session;
mod shell;
pub mod stack;
pub mod startup;
mod sys;
pub mod tenant;
pub mod text;
pub mod tls;
mod transport;
pub mod units;
