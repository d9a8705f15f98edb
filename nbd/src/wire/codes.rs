//! Code numbers as open types: a number without a name is kept, and judged by the rules.

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
    /// What a client asks for while haggling ("Option types").
    OptionCode(u32) {
        /// Choose an export and go on without a reply header.
        EXPORT_NAME = 1, "NBD_OPT_EXPORT_NAME";
        /// End the negotiation.
        ABORT = 2, "NBD_OPT_ABORT";
        /// Which exports are there?
        LIST = 3, "NBD_OPT_LIST";
        /// Withdrawn by the specification.
        PEEK_EXPORT = 4, "NBD_OPT_PEEK_EXPORT";
        /// Go on inside TLS.
        STARTTLS = 5, "NBD_OPT_STARTTLS";
        /// Tell of an export without opening it.
        INFO = 6, "NBD_OPT_INFO";
        /// Tell of an export and start its transmission.
        GO = 7, "NBD_OPT_GO";
        /// Use structured replies.
        STRUCTURED_REPLY = 8, "NBD_OPT_STRUCTURED_REPLY";
        /// Which meta contexts does an export have?
        LIST_META_CONTEXT = 9, "NBD_OPT_LIST_META_CONTEXT";
        /// Select meta contexts.
        SET_META_CONTEXT = 10, "NBD_OPT_SET_META_CONTEXT";
        /// Use extended headers.
        EXTENDED_HEADERS = 11, "NBD_OPT_EXTENDED_HEADERS";
    }
}

codes! {
    /// What a server answers to an option ("Option reply types"); bit 31 marks errors.
    ReplyCode(u32) {
        /// Done.
        ACK = 1, "NBD_REP_ACK";
        /// One export of a list.
        SERVER = 2, "NBD_REP_SERVER";
        /// One piece of information.
        INFO = 3, "NBD_REP_INFO";
        /// One meta context.
        META_CONTEXT = 4, "NBD_REP_META_CONTEXT";
        /// The option is not known.
        ERR_UNSUP = (1 << 31) | 1, "NBD_REP_ERR_UNSUP";
        /// The option is forbidden here.
        ERR_POLICY = (1 << 31) | 2, "NBD_REP_ERR_POLICY";
        /// The option made no sense.
        ERR_INVALID = (1 << 31) | 3, "NBD_REP_ERR_INVALID";
        /// This build cannot do it.
        ERR_PLATFORM = (1 << 31) | 4, "NBD_REP_ERR_PLATFORM";
        /// Only inside TLS.
        ERR_TLS_REQD = (1 << 31) | 5, "NBD_REP_ERR_TLS_REQD";
        /// No such export.
        ERR_UNKNOWN = (1 << 31) | 6, "NBD_REP_ERR_UNKNOWN";
        /// The server is going away.
        ERR_SHUTDOWN = (1 << 31) | 7, "NBD_REP_ERR_SHUTDOWN";
        /// The client has to ask for block sizes first.
        ERR_BLOCK_SIZE_REQD = (1 << 31) | 8, "NBD_REP_ERR_BLOCK_SIZE_REQD";
        /// Longer than the server takes.
        ERR_TOO_BIG = (1 << 31) | 9, "NBD_REP_ERR_TOO_BIG";
        /// The client has to ask for extended headers first.
        ERR_EXT_HEADER_REQD = (1 << 31) | 10, "NBD_REP_ERR_EXT_HEADER_REQD";
    }
}

impl ReplyCode {
    /// Bit 31: the option failed.
    pub const fn is_error(self) -> bool {
        self.0 & (1 << 31) != 0
    }
}

codes! {
    /// Kinds of NBD_REP_INFO ("NBD_INFO" in "Option reply types").
    InfoType(u16) {
        /// Size and transmission flags.
        EXPORT = 0, "NBD_INFO_EXPORT";
        /// The canonical name.
        NAME = 1, "NBD_INFO_NAME";
        /// A text for people.
        DESCRIPTION = 2, "NBD_INFO_DESCRIPTION";
        /// Block size constraints.
        BLOCK_SIZE = 3, "NBD_INFO_BLOCK_SIZE";
    }
}

codes! {
    /// What a request asks ("Request types").
    Command(u16) {
        /// Read bytes.
        READ = 0, "NBD_CMD_READ";
        /// Write the payload.
        WRITE = 1, "NBD_CMD_WRITE";
        /// End the session.
        DISC = 2, "NBD_CMD_DISC";
        /// Make what was answered durable.
        FLUSH = 3, "NBD_CMD_FLUSH";
        /// The range is not needed any more.
        TRIM = 4, "NBD_CMD_TRIM";
        /// The range will be read soon.
        CACHE = 5, "NBD_CMD_CACHE";
        /// Write zeroes without a payload.
        WRITE_ZEROES = 6, "NBD_CMD_WRITE_ZEROES";
        /// Extents of the selected meta contexts.
        BLOCK_STATUS = 7, "NBD_CMD_BLOCK_STATUS";
        /// An extension that nobody has.
        RESIZE = 8, "NBD_CMD_RESIZE";
    }
}

codes! {
    /// Kinds of chunk in structured and extended replies ("Structured reply types").
    ChunkType(u16) {
        /// Nothing; only to carry DONE.
        NONE = 0, "NBD_REPLY_TYPE_NONE";
        /// Offset and bytes.
        OFFSET_DATA = 1, "NBD_REPLY_TYPE_OFFSET_DATA";
        /// Offset and a length of zeroes.
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
    /// Bit 15: an error chunk, laid out as `ERROR` even if the type is unknown.
    pub const fn is_error(self) -> bool {
        self.0 & (1 << 15) != 0
    }
}

codes! {
    /// Error numbers of replies ("Error values").
    Errno(u32) {
        /// Not permitted.
        EPERM = 1, "EPERM";
        /// Input or output error.
        EIO = 5, "EIO";
        /// Out of memory.
        ENOMEM = 12, "ENOMEM";
        /// The request makes no sense.
        EINVAL = 22, "EINVAL";
        /// No space left.
        ENOSPC = 28, "ENOSPC";
        /// A value is too large.
        EOVERFLOW = 75, "EOVERFLOW";
        /// Not supported.
        ENOTSUP = 95, "ENOTSUP";
        /// The server is going away.
        ESHUTDOWN = 108, "ESHUTDOWN";
    }
}
