//! The agent as a process: what it says, where it listens, what it leaves behind.

mod agent;
mod endings;
mod exhaustion;
mod sockets;
mod words;
