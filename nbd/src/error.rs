//! The other end broke the protocol so that the stream cannot go on.

use thiserror::Error;

use crate::wire::{Magic, Truncated};

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
    /// "NBD_OPT_EXPORT_NAME": it has no way to answer an error but to close.
    #[error("export refused, and NBD_OPT_EXPORT_NAME can only be refused by closing")]
    ExportNameRefused,
    /// "Terminating the transmission phase" or a request whose payload cannot be skipped.
    #[error("request announces a payload of {len} bytes, over the limit of {limit}")]
    PayloadTooLong {
        /// Announced.
        len: u64,
        /// Where the connection is closed.
        limit: u64,
    },
    /// A fixed part of a message ended too early.
    #[error("{0}")]
    Truncated(#[from] Truncated),
    /// The peer closed or answered in a state in which it must not.
    #[error("{0}")]
    Unexpected(&'static str),
}
