//! Magic numbers, sizes of headers, and limits of the specification.

use std::fmt;

/// The default port of NBD, for TCP and vsock.
pub const DEFAULT_PORT: u16 = 10809;
/// "NBDMAGIC", the first eight bytes that a server sends.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// The second eight bytes of an oldstyle server ("Oldstyle negotiation").
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// "IHAVEOPT": the second eight bytes of a newstyle server, and the start of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The start of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The start of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The start of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// The start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// The start of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// The start of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// The longest string of the protocol, in bytes ("Values").
pub const MAX_STRING: usize = 4096;
/// The length of a compact request header, in bytes.
pub const REQUEST_LEN: usize = 28;
/// The length of an extended request header, in bytes.
pub const EXTENDED_REQUEST_LEN: usize = 32;
/// The length of a simple reply header, in bytes.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// The length of a structured chunk header, in bytes.
pub const CHUNK_LEN: usize = 20;
/// The length of an extended chunk header, in bytes.
pub const EXTENDED_CHUNK_LEN: usize = 32;

/// The metadata context that tells holes from data ("Metadata querying"). [`ExtentFlags`](super::ExtentFlags)
/// are its status bits.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// The message that a magic number belongs to, for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Magic {
    /// The server's greeting.
    Greeting,
    /// A client's option.
    Option,
    /// A server's option reply.
    OptionReply,
    /// A client's request.
    Request,
    /// A server's reply.
    Reply,
}

impl fmt::Display for Magic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "the server's greeting",
            Self::Option => "an option",
            Self::OptionReply => "an option reply",
            Self::Request => "a request",
            Self::Reply => "a reply",
        })
    }
}
