//! From the first byte to an agreed export, both ends ("Session negotiation").
//!
//! ```text
//!              start                    flags                       GO, EXPORT_NAME
//!  Server:  -----------> [Flags] -----------------> [Options] <----------------------+
//!            greeting                                  |  ^                          |
//!                                  option over 8 KiB   v  | skipped, answered        |
//!                                                   [Skip]-+                         |
//!                                                      |                             |
//!                           a question to the caller:  +--> Ask --refused, told------+
//!                                                            |
//!            Done(Negotiated) <------GO, EXPORT_NAME granted-+     End(Ending): any time
//!
//!  [Options] --STARTTLS--> StartTls, the handshake, --secured--> [Options] of a fresh machine
//! ```
//!
//! A machine is consumed by each step and comes back in its result, so a state that has ended cannot
//! be used. Only this module makes a [`Negotiated`]: it is the proof that a transmission may begin.

mod ask;
mod client;
mod context;
mod phase;
mod ready;
mod server;
mod starttls;
mod told;

pub use ask::{Ask, AskExport, AskList, Purpose};
pub use client::{Client, ClientStep, Listed, REPLY_LIMIT};
pub use context::Context;
pub use ready::{ClientTls, Ready};
pub use server::{Ending, Server, Step};
pub use starttls::StartTls;
pub use told::Described;

use crate::{BlockSizes, Terms, wire::TransmissionFlags};

/// The longest option that the server takes, in bytes of data. It skips and refuses a longer one.
pub const OPTION_LIMIT: u32 = 8 << 10;
/// The longest option that the server skips, in bytes of data. A longer one is a violation.
pub const SKIP_LIMIT: u32 = 1 << 20;
/// The most exports in one answer to NBD_OPT_LIST.
pub const LIST_LIMIT: usize = 10_000;
/// The most bytes in one answer to NBD_OPT_LIST. The entry that crosses the limit is still sent.
pub const LIST_BYTES: usize = 1 << 20;

/// What the server agrees to. The default is everything but TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offers {
    /// NBD_FLAG_FIXED_NEWSTYLE: options other than NBD_OPT_EXPORT_NAME. Only tests of clients turn it
    /// off.
    pub fixed: bool,
    /// NBD_OPT_STRUCTURED_REPLY.
    pub structured: bool,
    /// NBD_OPT_EXTENDED_HEADERS.
    pub extended: bool,
    /// NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
    pub contexts: bool,
    /// NBD_FLAG_NO_ZEROES: leave out the 124 zeroes after the answer to NBD_OPT_EXPORT_NAME for clients
    /// that ask for that.
    pub no_zeroes: bool,
    /// NBD_OPT_STARTTLS.
    pub tls: Tls,
}

/// Whether a client may or must start TLS ("TLS support", "Server-side requirements").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// The server has no TLS: NOTLS mode.
    Off,
    /// The client chooses: SELECTIVETLS mode, without an export that requires TLS.
    On,
    /// Only STARTTLS and ABORT are allowed before TLS: FORCEDTLS mode.
    Require,
}

impl Default for Offers {
    fn default() -> Self {
        Self {
            fixed: true,
            structured: true,
            extended: true,
            contexts: true,
            no_zeroes: true,
            tls: Tls::Off,
        }
    }
}

/// The caller's description of an export that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The size, in bytes. At most 2^63-1, or clients refuse it.
    pub size: u64,
    /// What it can do. The machine sets HAS_FLAGS and SEND_DF itself, and clears flags that the framing
    /// does not allow.
    pub flags: TransmissionFlags,
    /// The constraints that the client is told.
    pub blocks: BlockSizes,
    /// A request whose offset or length is not a multiple of so many bytes is refused. A power of two, at
    /// most `blocks.minimum`.
    pub unit: u32,
    /// The canonical name, if it differs from the client's.
    pub name: Option<String>,
    /// A description for people. At most 4096 bytes are sent.
    pub description: Option<String>,
    /// The metadata contexts that it offers, in the order in which they are told. Of two contexts with
    /// the same name the first one counts.
    pub contexts: Vec<Context>,
}

/// The result of a successful negotiation. Only the machines of this module make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    terms: Terms,
    export_name: String,
    purpose: Purpose,
}

impl Negotiated {
    /// The rules of the transmission.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The export's name as the client sent it.
    pub fn export_name(&self) -> &str {
        &self.export_name
    }

    /// How the client entered: `Go` or `ExportName`.
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The rules of the transmission, without the rest.
    pub fn into_terms(self) -> Terms {
        self.terms
    }
}
