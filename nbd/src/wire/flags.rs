//! The flag words of both phases. Unknown bits are kept, and the rules judge them.

use std::fmt;

use bitflags::{bitflags, parser};

bitflags! {
    /// The server's flags in its greeting ("Handshake flags").
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// Fixed newstyle.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The server can leave out the 124 zeroes after its answer to NBD_OPT_EXPORT_NAME.
        const NO_ZEROES = 1 << 1;
        const _ = !0;
    }

    /// The client's flags in its answer to the greeting ("Client flags").
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ClientFlags: u32 {
        /// Fixed newstyle.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The server leaves out the 124 zeroes.
        const NO_ZEROES = 1 << 1;
        const _ = !0;
    }

    /// What an export can do ("Transmission flags").
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        /// The flags are valid. Always set.
        const HAS_FLAGS = 1 << 0;
        /// The export is read-only.
        const READ_ONLY = 1 << 1;
        /// NBD_CMD_FLUSH.
        const SEND_FLUSH = 1 << 2;
        /// NBD_CMD_FLAG_FUA.
        const SEND_FUA = 1 << 3;
        /// Sequential access is faster, as on a rotating disk.
        const ROTATIONAL = 1 << 4;
        /// NBD_CMD_TRIM.
        const SEND_TRIM = 1 << 5;
        /// NBD_CMD_WRITE_ZEROES.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// NBD_CMD_FLAG_DF.
        const SEND_DF = 1 << 7;
        /// A flush covers the writes of all connections.
        const CAN_MULTI_CONN = 1 << 8;
        /// NBD_CMD_RESIZE, an extension.
        const SEND_RESIZE = 1 << 9;
        /// NBD_CMD_CACHE.
        const SEND_CACHE = 1 << 10;
        /// NBD_CMD_FLAG_FAST_ZERO.
        const SEND_FAST_ZERO = 1 << 11;
        /// NBD_CMD_BLOCK_STATUS takes a payload of context ids (extended headers).
        const BLOCK_STATUS_PAYLOAD = 1 << 12;
        const _ = !0;
    }

    /// Flags of a request ("Command flags").
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct CommandFlags: u16 {
        /// Durable before the reply.
        const FUA = 1 << 0;
        /// The zeroes must not become a hole.
        const NO_HOLE = 1 << 1;
        /// Do not fragment the reply.
        const DF = 1 << 2;
        /// One extent only.
        const REQ_ONE = 1 << 3;
        /// Fail if writing zeroes is not fast.
        const FAST_ZERO = 1 << 4;
        /// The length is that of the payload (extended headers).
        const PAYLOAD_LEN = 1 << 5;
        const _ = !0;
    }

    /// Flags of a structured or extended chunk ("Structured reply flags").
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ChunkFlags: u16 {
        /// This is the last chunk of the reply.
        const DONE = 1 << 0;
        const _ = !0;
    }

    /// The status of an extent in `base:allocation` ("Metadata querying"). Other contexts have bits of their
    /// own.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ExtentFlags: u32 {
        /// Not allocated.
        const HOLE = 1 << 0;
        /// Reads as zeroes.
        const ZERO = 1 << 1;
        const _ = !0;
    }
}

/// Prints flags by their names, as `FUA | NO_HOLE`; bits without a name as a number, and none as `none`.
macro_rules! printed {
    ($($flags:ident),+) => {$(
        impl fmt::Display for $flags {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.is_empty() { f.write_str("none") } else { parser::to_writer(self, f) }
            }
        }
    )+};
}

printed!(HandshakeFlags, ClientFlags, TransmissionFlags, CommandFlags, ChunkFlags, ExtentFlags);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_printed_by_their_names() {
        let flags = CommandFlags::FUA | CommandFlags::DF;
        assert_eq!(flags.to_string(), "FUA | DF");
        assert_eq!(CommandFlags::empty().to_string(), "none");
        assert_eq!(CommandFlags::from_bits_retain(0x8001).to_string(), "FUA | 0x8000");
    }
}
