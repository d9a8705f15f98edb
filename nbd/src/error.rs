//! What can be wrong with the other end: a breach that ends the connection, or an option that is
//! refused while the negotiation goes on.

use std::fmt;

use thiserror::Error;

use crate::wire::{
    MAX_STRING, Magic, OptionCode, ReplyCode, Truncated, fit, printable, put_option_reply,
};

/// A breach after which the connection must be closed: where the next message starts is unknown,
/// or the specification asks for it. Each names the section that it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// A message began with something else than its magic.
    #[error("expected the magic of {expected}, got {got:#x}")]
    Magic {
        /// Which message was due.
        expected: Magic,
        /// What came, widened.
        got: u64,
    },
    /// "Newstyle negotiation": a client flag that the server did not offer.
    #[error("unknown client flags {0:#x} (newstyle negotiation)")]
    ClientFlags(u32),
    /// An option whose announced data is beyond any sense.
    #[error("option of {len} bytes announced, over the limit of {limit} (option haggling)")]
    OptionTooLong {
        /// Announced.
        len: u32,
        /// Where the connection is closed.
        limit: u32,
    },
    /// "Oldstyle negotiation".
    #[error("the server speaks the oldstyle protocol, which has no options; newstyle is needed")]
    Oldstyle,
    /// "FORCEDTLS mode": nothing may come between NBD_OPT_STARTTLS and its acknowledgement. These
    /// bytes are in plain text, and whoever put them there wants them taken for the client's.
    #[error("{0} bytes in plain text behind NBD_OPT_STARTTLS, before it was acknowledged (TLS)")]
    BehindStartTls(usize),
    /// An NBD_OPT_EXPORT_NAME that cannot be taken, and has no way to be answered but to close.
    #[error("NBD_OPT_EXPORT_NAME that can only be refused by closing: {0}")]
    ExportName(&'static str),
    /// "Terminating the transmission phase" or a request whose payload cannot be skipped.
    #[error("request announces a payload of {len} bytes, over the limit of {limit}")]
    PayloadTooLong {
        /// Announced.
        len: u64,
        /// Where the connection is closed.
        limit: u64,
    },
    /// A server answered another option than the one that was asked.
    #[error("{answered} was answered where {asked} was asked (option haggling)")]
    WrongOption {
        /// What this end asked.
        asked: OptionCode,
        /// What the server answered.
        answered: OptionCode,
    },
    /// A server answered with a reply that does not belong to the option.
    #[error("{0} where it has no place (option reply types)")]
    UnexpectedReply(ReplyCode),
    /// A server's reply is longer than any that makes sense.
    #[error("a reply of {len} bytes announced, over the limit of {limit}")]
    ReplyTooLong {
        /// Announced.
        len: u64,
        /// Where the connection is closed.
        limit: u64,
    },
    /// A server goes on and on.
    #[error("{option} was answered with more than the limit of {limit}")]
    TooManyReplies {
        /// What was asked.
        option: OptionCode,
        /// Replies, or bytes of a list.
        limit: usize,
    },
    /// A server's reply does not fit the request.
    #[error("the reply to request {cookie}: {why} (transmission)")]
    Reply {
        /// As the server said it.
        cookie: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// An export that no client can address.
    #[error("an export of {0} bytes, over the limit of 2^63-1")]
    Size(u64),
    /// A fixed part of a message ended too early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The data of a server's reply to an option is not what it has to be.
    #[error("{reply} that cannot be read: {why} (option reply types)")]
    ReplyData {
        /// The reply.
        reply: ReplyCode,
        /// What is wrong with it.
        why: Truncated,
    },
    /// The peer closed or answered in a state in which it must not.
    #[error("{0}")]
    Unexpected(&'static str),
}

/// Why an option was not granted; the negotiation goes on. The text reaches the other end's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: ReplyCode,
    text: String,
}

impl Refusal {
    pub(crate) fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// There is no such export, or the client is to think so.
    pub fn unknown(name: &str) -> Self {
        Self::new(ReplyCode::ERR_UNKNOWN, format!("no export is named {}", Quoted(name)))
    }

    /// A rule of the server forbids it.
    pub fn policy(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::ERR_POLICY, text)
    }

    /// The server's platform cannot do it, or failed to.
    pub fn platform(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::ERR_PLATFORM, text)
    }

    /// The server is going away.
    pub fn shutdown() -> Self {
        Self::new(ReplyCode::ERR_SHUTDOWN, "the server is shutting down")
    }

    /// Not without TLS.
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

    /// As a server sent it; the text is made fit to be printed, and short.
    pub(crate) fn received(code: ReplyCode, text: &[u8]) -> Self {
        Self { code, text: reason(text) }
    }

    /// The code on the wire.
    pub const fn code(&self) -> ReplyCode {
        self.code
    }

    /// For people.
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

/// Why a server did not do something, in its words: fit to be printed, and no longer than anybody
/// reads.
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

/// A name of the other end in a text: escaped, and short.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 256;
        let head = self.0.get(..self.0.floor_char_boundary(SHOWN)).unwrap_or_default();
        let dots = if head.len() < self.0.len() { "..." } else { "" };
        write!(f, "{head:?}{dots}")
    }
}
