//! The two ways in which the other end is wrong: a violation, which ends the connection, and an option that is
//! refused while the negotiation continues.

use std::fmt;

use thiserror::Error;

use crate::wire::{
    MAX_STRING, Magic, OptionCode, ReplyCode, Truncated, fit, printable, put_option_reply,
};

/// A breach of the protocol after which the connection must be closed: the start of the next message is
/// unknown, or the specification demands it. The texts name the section in parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// A message does not begin with its magic.
    #[error("expected the magic of {expected}, got {got:#x}")]
    Magic {
        /// The message that was expected.
        expected: Magic,
        /// The number in its place, widened to 64 bits.
        got: u64,
    },
    /// "Newstyle negotiation": a client flag that the server did not offer.
    #[error("unknown client flags {0:#x} (newstyle negotiation)")]
    ClientFlags(u32),
    /// An option whose announced length exceeds [`SKIP_LIMIT`](crate::negotiate::SKIP_LIMIT).
    #[error("option of {len} bytes announced, over the limit of {limit} (option haggling)")]
    OptionTooLong {
        /// Announced.
        len: u32,
        /// Where the connection is closed.
        limit: u32,
    },
    /// The server speaks the protocol of "Oldstyle negotiation".
    #[error("the server speaks the oldstyle protocol, which has no options; newstyle is needed")]
    Oldstyle,
    /// "FORCEDTLS mode": the client may send nothing between NBD_OPT_STARTTLS and its acknowledgement. These
    /// bytes are plain text that an attacker may have inserted to be taken for the client's first bytes inside
    /// TLS.
    #[error("{0} bytes in plain text behind NBD_OPT_STARTTLS, before it was acknowledged (TLS)")]
    BehindStartTls(usize),
    /// An NBD_OPT_EXPORT_NAME that the server cannot take. The only way to refuse it is to close.
    #[error("NBD_OPT_EXPORT_NAME that can only be refused by closing: {0}")]
    ExportName(&'static str),
    /// A request whose payload is too long to be skipped.
    #[error("request announces a payload of {len} bytes, over the limit of {limit}")]
    PayloadTooLong {
        /// Announced.
        len: u64,
        /// Where the connection is closed.
        limit: u64,
    },
    /// A server's reply names another option than the client sent.
    #[error("{answered} was answered where {asked} was asked (option haggling)")]
    WrongOption {
        /// The option that this end sent.
        asked: OptionCode,
        /// The option that the reply names.
        answered: OptionCode,
    },
    /// A server's reply does not belong to the option.
    #[error("{0} where it has no place (option reply types)")]
    UnexpectedReply(ReplyCode),
    /// A server's reply is longer than [`REPLY_LIMIT`](crate::negotiate::REPLY_LIMIT).
    #[error("a reply of {len} bytes announced, over the limit of {limit}")]
    ReplyTooLong {
        /// Announced.
        len: u64,
        /// Where the connection is closed.
        limit: u64,
    },
    /// A server's answer to an option has too many replies, or too many bytes.
    #[error("{option} was answered with more than the limit of {limit}")]
    TooManyReplies {
        /// The option.
        option: OptionCode,
        /// The limit, in replies or in bytes of a list.
        limit: usize,
    },
    /// A server's reply does not match the request.
    #[error("the reply to request {cookie}: {why} (transmission)")]
    Reply {
        /// The cookie of the reply.
        cookie: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A size of more than 2^63-1 bytes.
    #[error("an export of {0} bytes, over the limit of 2^63-1")]
    Size(u64),
    /// A message whose parts do not match its length.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The data of a server's reply to an option does not parse.
    #[error("{reply} that cannot be read: {why} (option reply types)")]
    ReplyData {
        /// The type of the reply.
        reply: ReplyCode,
        /// What is wrong with its data.
        why: Truncated,
    },
    /// The peer sent what it must not send in this state.
    #[error("{0}")]
    Unexpected(&'static str),
}

/// Why an option was refused. The negotiation continues. The text is shown to the client's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: ReplyCode,
    text: String,
}

impl Refusal {
    pub(crate) fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// There is no such export, or the client must not learn that there is (NBD_REP_ERR_UNKNOWN).
    pub fn unknown(name: &str) -> Self {
        Self::new(ReplyCode::ERR_UNKNOWN, format!("no export is named {}", Quoted(name)))
    }

    /// A rule of the server forbids it (NBD_REP_ERR_POLICY).
    pub fn policy(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::ERR_POLICY, text)
    }

    /// The server cannot do it, or failed to (NBD_REP_ERR_PLATFORM).
    pub fn platform(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::ERR_PLATFORM, text)
    }

    /// The server is shutting down (NBD_REP_ERR_SHUTDOWN).
    pub fn shutdown() -> Self {
        Self::new(ReplyCode::ERR_SHUTDOWN, "the server is shutting down")
    }

    /// The client has to start TLS first (NBD_REP_ERR_TLS_REQD).
    pub fn tls_required() -> Self {
        Self::new(ReplyCode::ERR_TLS_REQD, "TLS is required: send NBD_OPT_STARTTLS first")
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::ERR_INVALID, text)
    }

    pub(crate) fn unsupported(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::ERR_UNSUP, text)
    }

    pub(crate) fn too_big(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::ERR_TOO_BIG, text)
    }

    /// A server's refusal. The text is made printable, and cut.
    pub(crate) fn received(code: ReplyCode, text: &[u8]) -> Self {
        Self { code, text: reason(text) }
    }

    /// The code on the wire.
    pub const fn code(&self) -> ReplyCode {
        self.code
    }

    /// The text for people. A server's text is printable and short.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Appends it as the answer to `option`.
    pub(crate) fn put(&self, option: OptionCode, out: &mut Vec<u8>) {
        put_option_reply(option, self.code, out, |out| {
            out.extend_from_slice(fit(&self.text).as_bytes());
        });
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            write!(f, "{}", self.code)
        } else {
            write!(f, "{} ({})", self.text, self.code)
        }
    }
}

/// A server's text about an error: made printable, and cut after 400 bytes.
pub(crate) fn reason(text: &[u8]) -> String {
    const SHOWN: usize = 400;
    let mut text = printable(text.get(..MAX_STRING).unwrap_or(text));
    let head = text.floor_char_boundary(SHOWN);
    if head < text.len() {
        text.truncate(head);
        text.push_str("...");
    }
    text
}

/// A name that the other end sent, for use in a text: escaped, and cut after 256 bytes.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 256;
        let head = self.0.get(..self.0.floor_char_boundary(SHOWN)).unwrap_or_default();
        let dots = if head.len() < self.0.len() { "..." } else { "" };
        write!(f, "{head:?}{dots}")
    }
}
