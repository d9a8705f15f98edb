//! A disk that another NBD server has: its exports, through connections of this agent.
//!
//! ```text
//!  tenant's thread: execute --request--> link --socket--> the far server
//!                    ^                                        |
//!                    +--answer-- one thread for all links <---+
//! ```
//! `plugin::nbd` says where the server is (`endpoint`) and whether connections go on inside TLS. `exports` gives each
//! client a link of its own, or one to all. A link is set up by nbd-client (`connect`); it has many requests under way
//! (`link`), in plain text or inside TLS (`transport`).
//!
//! A request waits as long as its client is there. When that has gone and the far server is silent, its requests
//! end (`asker`): a link of its own is closed, one that all share goes on for the others.
//!
//! **When a link breaks, it is not repaired.** Every request on it fails from then on, flushes too: what
//! the far server had acknowledged and not yet made durable may be lost with it, and a flush on a new
//! connection would say that it is not. The client sees errors and knows; who connects anew gets a new
//! link. nbdkit does the same.
//!
//! Where the export says that a flush on one connection covers the others, that holds across links
//! too (`share`): a flush on a new link fails while what was answered on an older one may be lost.

mod asker;
mod connect;
mod dirty;
mod endpoint;
mod exports;
mod link;
mod pieces;
mod reader;
mod runtime;
mod send;
mod share;
mod transport;

pub use self::{
    connect::Tls,
    endpoint::{Endpoint, EndpointError},
    exports::Remote,
};
