//! Code numbers as open types: a number without a name is kept, and the rules judge it.

use std::fmt;

macro_rules! codes {
    ($(#[$doc:meta])* $type:ident($int:ty) { $($(#[$item:meta])* $name:ident = $value:expr, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(pub $int);

        impl $type {
            $($(#[$item])* pub const $name: Self = Self($value);)*
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str($text),)*
                    Self(other) => write!(f, concat!(stringify!($type), "({})"), other),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

codes! {
    /// The type of a client's option ("Option types").
    OptionCode(u32) {
        /// Enter the transmission of an export; the answer has no reply header.
        EXPORT_NAME = 1, "NBD_OPT_EXPORT_NAME";
        /// End the negotiation.
        ABORT = 2, "NBD_OPT_ABORT";
        /// List the exports.
        LIST = 3, "NBD_OPT_LIST";
        /// Withdrawn by the specification.
        PEEK_EXPORT = 4, "NBD_OPT_PEEK_EXPORT";
        /// Start TLS.
        STARTTLS = 5, "NBD_OPT_STARTTLS";
        /// Describe an export.
        INFO = 6, "NBD_OPT_INFO";
        /// Describe an export and enter its transmission.
        GO = 7, "NBD_OPT_GO";
        /// Use structured replies.
        STRUCTURED_REPLY = 8, "NBD_OPT_STRUCTURED_REPLY";
        /// List the metadata contexts of an export.
        LIST_META_CONTEXT = 9, "NBD_OPT_LIST_META_CONTEXT";
        /// Select metadata contexts of an export.
        SET_META_CONTEXT = 10, "NBD_OPT_SET_META_CONTEXT";
        /// Use extended headers.
        EXTENDED_HEADERS = 11, "NBD_OPT_EXTENDED_HEADERS";
    }
}

codes! {
    /// The type of a server's reply to an option ("Option reply types"). Bit 31 marks errors.
    ReplyCode(u32) {
        /// Success; the last reply to an option.
        ACK = 1, "NBD_REP_ACK";
        /// One export of a list.
        SERVER = 2, "NBD_REP_SERVER";
        /// One piece of information about an export.
        INFO = 3, "NBD_REP_INFO";
        /// One metadata context.
        META_CONTEXT = 4, "NBD_REP_META_CONTEXT";
        /// The server does not support the option.
        ERR_UNSUP = (1 << 31) | 1, "NBD_REP_ERR_UNSUP";
        /// A rule of the server forbids the option.
        ERR_POLICY = (1 << 31) | 2, "NBD_REP_ERR_POLICY";
        /// The option is malformed or not allowed in this state.
        ERR_INVALID = (1 << 31) | 3, "NBD_REP_ERR_INVALID";
        /// The server's platform or build cannot do it.
        ERR_PLATFORM = (1 << 31) | 4, "NBD_REP_ERR_PLATFORM";
        /// The option is allowed only inside TLS.
        ERR_TLS_REQD = (1 << 31) | 5, "NBD_REP_ERR_TLS_REQD";
        /// There is no such export.
        ERR_UNKNOWN = (1 << 31) | 6, "NBD_REP_ERR_UNKNOWN";
        /// The server is shutting down.
        ERR_SHUTDOWN = (1 << 31) | 7, "NBD_REP_ERR_SHUTDOWN";
        /// The client has to ask for block sizes first.
        ERR_BLOCK_SIZE_REQD = (1 << 31) | 8, "NBD_REP_ERR_BLOCK_SIZE_REQD";
        /// The option or its answer is too long.
        ERR_TOO_BIG = (1 << 31) | 9, "NBD_REP_ERR_TOO_BIG";
        /// The client has to ask for extended headers first.
        ERR_EXT_HEADER_REQD = (1 << 31) | 10, "NBD_REP_ERR_EXT_HEADER_REQD";
    }
}

impl ReplyCode {
    /// Whether bit 31 is set: the option failed.
    pub const fn is_error(self) -> bool {
        self.0 & (1 << 31) != 0
    }
}

codes! {
    /// The type of an NBD_REP_INFO ("Option reply types").
    InfoType(u16) {
        /// Size and transmission flags.
        EXPORT = 0, "NBD_INFO_EXPORT";
        /// The canonical name.
        NAME = 1, "NBD_INFO_NAME";
        /// A description for people.
        DESCRIPTION = 2, "NBD_INFO_DESCRIPTION";
        /// Block size constraints.
        BLOCK_SIZE = 3, "NBD_INFO_BLOCK_SIZE";
    }
}

codes! {
    /// The command of a request ("Request types").
    Command(u16) {
        /// Read bytes.
        READ = 0, "NBD_CMD_READ";
        /// Write the payload.
        WRITE = 1, "NBD_CMD_WRITE";
        /// End the session.
        DISC = 2, "NBD_CMD_DISC";
        /// Make the writes that were answered before durable.
        FLUSH = 3, "NBD_CMD_FLUSH";
        /// Discard the range.
        TRIM = 4, "NBD_CMD_TRIM";
        /// Prepare for reads of the range.
        CACHE = 5, "NBD_CMD_CACHE";
        /// Write zeroes without a payload.
        WRITE_ZEROES = 6, "NBD_CMD_WRITE_ZEROES";
        /// Tell the extents of the selected metadata contexts.
        BLOCK_STATUS = 7, "NBD_CMD_BLOCK_STATUS";
        /// Resize the export; an extension without known implementations.
        RESIZE = 8, "NBD_CMD_RESIZE";
    }
}

codes! {
    /// The type of a chunk in structured and extended replies ("Structured reply types").
    ChunkType(u16) {
        /// No payload; it only carries DONE.
        NONE = 0, "NBD_REPLY_TYPE_NONE";
        /// An offset and data.
        OFFSET_DATA = 1, "NBD_REPLY_TYPE_OFFSET_DATA";
        /// An offset and the length of a hole.
        OFFSET_HOLE = 2, "NBD_REPLY_TYPE_OFFSET_HOLE";
        /// Extents with 32-bit lengths.
        BLOCK_STATUS = 5, "NBD_REPLY_TYPE_BLOCK_STATUS";
        /// Extents with 64-bit lengths.
        BLOCK_STATUS_EXT = 6, "NBD_REPLY_TYPE_BLOCK_STATUS_EXT";
        /// The request failed.
        ERROR = (1 << 15) | 1, "NBD_REPLY_TYPE_ERROR";
        /// The request failed at an offset.
        ERROR_OFFSET = (1 << 15) | 2, "NBD_REPLY_TYPE_ERROR_OFFSET";
    }
}

impl ChunkType {
    /// Whether bit 15 is set: an error chunk. All of them begin with the fields of `ERROR`.
    pub const fn is_error(self) -> bool {
        self.0 & (1 << 15) != 0
    }
}

codes! {
    /// The error number of a reply ("Error values").
    Errno(u32) {
        /// The operation is not permitted.
        EPERM = 1, "EPERM";
        /// An input or output error.
        EIO = 5, "EIO";
        /// The server is out of memory.
        ENOMEM = 12, "ENOMEM";
        /// The request is invalid.
        EINVAL = 22, "EINVAL";
        /// There is no space left.
        ENOSPC = 28, "ENOSPC";
        /// A value is too large, or a read cannot be sent as one chunk.
        EOVERFLOW = 75, "EOVERFLOW";
        /// The operation is not supported.
        ENOTSUP = 95, "ENOTSUP";
        /// The server is shutting down.
        ESHUTDOWN = 108, "ESHUTDOWN";
    }
}
