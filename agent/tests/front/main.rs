//! The agent as a process: what it says, where it listens, what it leaves behind.

mod activation;
mod agent;
mod endings;
mod exhaustion;
mod handed;
mod single;
mod sockets;
mod words;
