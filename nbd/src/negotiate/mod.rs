//! From the first byte to an agreed export, both ends.
//!
//! ```text
//!              start                    flags                       GO, EXPORT_NAME
//!  Server:  -----------> [Flags] -----------------> [Options] <----------------------+
//!            greeting                                  |  ^                          |
//!                                  option over 8 KiB   v  | skipped, answered        |
//!                                                   [Skip]-+                         |
//!                                                      |                             |
//!            a question that only the caller answers:  +--> Ask --refused, told------+
//!                                                            |
//!            Done(Negotiated) <------GO, EXPORT_NAME granted-+     End(Ending): any time
//!
//!  [Options] --STARTTLS--> StartTls, the handshake, --secured--> [Options] of a fresh machine
//! ```
//!
//! A machine is consumed by each step and comes back in its result, so a state that is over cannot
//! be used. `Negotiated` is made only here: it is the proof that a transmission may begin.
//! `session/negotiate` (agent) drives the server, `nbd-client` (`connect`) the client.

mod ask;
mod client;
mod meta;
mod own;
mod ready;
mod server;
mod starttls;
mod told;

pub use ask::{Ask, AskExport, AskList, Purpose};
pub use client::{Client, ClientStep, Listed, REPLY_LIMIT};
pub use own::{FencingToken, IDENTITY, INSTANCE, INSTEAD, answer_to};
pub use ready::{ClientTls, Ready};
pub use server::{Ending, Server, Step};
pub use starttls::StartTls;
pub use told::Described;

use crate::{BlockSizes, Terms, wire::TransmissionFlags};

/// Longest option that is taken, in bytes of data. A longer one is refused and skipped.
pub const OPTION_LIMIT: u32 = 8 << 10;
/// Longest option that is skipped, in bytes of data. At a longer one the connection is closed.
pub const SKIP_LIMIT: u32 = 1 << 20;
/// Most exports in one answer to NBD_OPT_LIST.
pub const LIST_LIMIT: usize = 10_000;
/// Most bytes of one answer to NBD_OPT_LIST; the entry that crosses it is still sent.
pub const LIST_BYTES: usize = 1 << 20;

/// What the server's end is willing to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offers {
    /// NBD_FLAG_FIXED_NEWSTYLE: options other than NBD_OPT_EXPORT_NAME. Only tests of clients go
    /// without.
    pub fixed: bool,
    /// NBD_OPT_STRUCTURED_REPLY.
    pub structured: bool,
    /// NBD_OPT_EXTENDED_HEADERS.
    pub extended: bool,
    /// NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
    pub contexts: bool,
    /// Leave out the 124 zeroes of NBD_OPT_EXPORT_NAME for clients that ask for that.
    pub no_zeroes: bool,
    /// NBD_OPT_STARTTLS.
    pub tls: Tls,
}

/// Whether a session may or must go on inside TLS ("TLS support", "Server-side requirements").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// There is none: NOTLS.
    Off,
    /// The client chooses: SELECTIVETLS with no export that insists.
    On,
    /// Nothing without it: FORCEDTLS.
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

/// What the caller says of an export that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Bytes.
    pub size: u64,
    /// What it can do. HAS_FLAGS and SEND_DF are the machine's business.
    pub flags: TransmissionFlags,
    /// Constraints that the client is told.
    pub blocks: BlockSizes,
    /// Every offset and length has to be a multiple of so many bytes, else the request is refused.
    pub unit: u32,
    /// The canonical name, if another than the client's.
    pub name: Option<String>,
    /// A text for people.
    pub description: Option<String>,
    /// It has `base:allocation`.
    pub allocation: bool,
    /// Which disk it is, for a client that comes back: printable ASCII (`x-agent:identity`).
    pub identity: Option<String>,
    /// Which run of the server it is, for the same client: printable ASCII (`x-agent:instance`).
    pub instance: Option<String>,
}

/// The end of a successful negotiation; nothing else makes one.
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

    /// The name as the client said it.
    pub fn export_name(&self) -> &str {
        &self.export_name
    }

    /// How the client entered: `Go` or `ExportName`.
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The rules alone, when the rest is logged.
    pub fn into_terms(self) -> Terms {
        self.terms
    }
}
