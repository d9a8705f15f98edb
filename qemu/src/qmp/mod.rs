//! QMP, QEMU's machine protocol: JSON, a message a line, over a Unix socket.
//!
//! The types of commands and replies are those of the crate `qapi`. Its connection is not used: it
//! panics when QEMU dies in its greeting or when a command is dropped, has no limit on a line and no
//! deadline, and cannot pass descriptors.

mod client;
mod codec;
mod error;

pub use self::{
    client::{Client, Heard, Limits},
    codec::{Event, JsonError, LINE_MAX, Lines, Message, MessageError, Refusal, TooLong, decode},
    error::{Error, Step, Why},
};
