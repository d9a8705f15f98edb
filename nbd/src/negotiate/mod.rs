//! Option haggling ("Fixed newstyle negotiation"): from the first byte to an agreed export.
//!
//! ```text
//!          +----------- answered ----------+
//!          v                               |
//! start -> Server --step--> Ask(List | Export) --answer--> Done(Negotiated)
//!          |  ^                                    |
//!          |  +-- Feed: more bytes                 +--> End
//!          +--> End(Aborted | ShutDown | Violation)
//! ```
//!
//! Each step consumes the machine, so a state that is over cannot be used again, and only this
//! module can make a `Negotiated`.

mod contexts;
mod server;

use crate::{
    BlockSizes, Terms, Violation,
    wire::{ReplyCode, TransmissionFlags},
};

pub use server::{Ask, AskExport, AskList, Server, Step};

/// Longest option that is taken in, bytes: a name and a query of 4096 bytes each nearly fit.
pub const MAX_OPTION: u32 = 8 << 10;
/// Longest option that is skipped; one that announces more is not worth the waiting.
pub const MAX_SKIP: u32 = 1 << 20;

/// What the server is willing to agree to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offers {
    /// NBD_OPT_STRUCTURED_REPLY.
    pub structured: bool,
    /// NBD_OPT_EXTENDED_HEADERS.
    pub extended: bool,
    /// NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
    pub contexts: bool,
}

impl Default for Offers {
    /// Everything.
    fn default() -> Self {
        Self { structured: true, extended: true, contexts: true }
    }
}

/// What a client is told of an export. SEND_DF is added by the machine where it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Bytes.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// Its block sizes.
    pub blocks: BlockSizes,
    /// Its canonical name, if that is not the one asked for.
    pub name: Option<String>,
    /// A text for people.
    pub description: Option<String>,
    /// It has `base:allocation`.
    pub allocation: bool,
}

/// Why an option is answered by an error: the code, and a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: ReplyCode,
    text: String,
}

impl Refusal {
    pub(crate) fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// There is no such export, or the client is not to know.
    pub fn unknown(name: &str) -> Self {
        Self::new(ReplyCode::ERR_UNKNOWN, format!("no export named {name:?}"))
    }

    /// The client may not.
    pub fn policy(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::ERR_POLICY, text)
    }

    /// The server tried and cannot.
    pub fn platform(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::ERR_PLATFORM, text)
    }

    /// The server is going away.
    pub fn shutdown() -> Self {
        Self::new(ReplyCode::ERR_SHUTDOWN, "the server is shutting down")
    }
}

/// What an export is asked about for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// NBD_OPT_INFO.
    Info,
    /// NBD_OPT_GO.
    Go,
    /// NBD_OPT_EXPORT_NAME.
    ExportName,
    /// NBD_OPT_LIST_META_CONTEXT.
    ListContexts,
    /// NBD_OPT_SET_META_CONTEXT.
    SetContexts,
}

/// How a negotiation ended that came to no export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client said NBD_OPT_ABORT.
    Aborted,
    /// The server is going away, and has said so.
    ShutDown,
    /// The client broke the protocol.
    Violation(Violation),
}

/// Proof that a negotiation came to an export. Made only by the machine.
#[derive(Debug)]
pub struct Negotiated {
    terms: Terms,
    export: String,
}

impl Negotiated {
    /// What was agreed.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The name that the client chose.
    pub fn export(&self) -> &str {
        &self.export
    }
}
