//! QMP, QEMU's machine protocol: one JSON message per line, over a Unix socket.
//!
//! The types of commands and replies are those of the crate `qapi`. Its connection is not used: it panics when QEMU
//! dies during its greeting or when a command's future is dropped, it limits neither the length of a line nor the
//! time of a command, and it cannot pass descriptors.

mod client;
mod codec;
mod error;

pub use self::{
    client::{Client, Heard, Limits},
    codec::{Event, JsonError, LINE_MAX, Lines, Message, MessageError, Refusal, TooLong, decode},
    error::{Error, Step, Why},
};
