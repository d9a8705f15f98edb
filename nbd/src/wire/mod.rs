//! Bytes to values and back; nothing here remembers anything.

mod codes;
mod consts;
mod flags;
mod reader;
mod reply;
mod request;

pub use codes::{ChunkType, Command, Errno, InfoType, OptionCode, ReplyCode};
pub use consts::*;
pub use flags::{
    ChunkFlags, ClientFlags, CommandFlags, ExtentFlags, HandshakeFlags, TransmissionFlags,
};
pub use reader::{Reader, Truncated};
pub use reply::{ChunkHeader, SimpleReply};
pub use request::Request;
