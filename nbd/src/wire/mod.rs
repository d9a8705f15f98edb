//! Constants and codecs of the wire: bytes to values and back, without state. Numbers are big-endian.

mod codes;
mod consts;
mod flags;
mod greeting;
mod option;
mod option_reply;
mod reader;
mod reply;
mod request;

pub use codes::{ChunkType, Command, Errno, InfoType, OptionCode, ReplyCode};
pub use consts::*;
pub use flags::{
    ChunkFlags, ClientFlags, CommandFlags, ExtentFlags, HandshakeFlags, TransmissionFlags,
};
pub use greeting::Greeting;
pub use option::{ContextQuery, InfoQuery, OptionHeader, put_counted_string, put_option};
pub use option_reply::{
    ContextEntry, ExportReply, Info, OptionReplyHeader, ServerEntry, fit, is_plain, printable,
    put_option_reply,
};
pub use reader::{Reader, Truncated};
pub use reply::{ChunkHeader, SimpleReply};
pub use request::Request;
