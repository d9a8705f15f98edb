//! The agent as a process: what it says, where it listens, what it leaves behind.

mod access;
mod activation;
mod advice;
mod agent;
mod background;
mod captive;
mod data;
mod dump;
mod endings;
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
mod plugins;
mod proxy;
mod shape;
mod single;
mod sockets;
mod user;
mod words;
