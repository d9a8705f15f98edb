//! The exports of another NBD server, through connections of this agent.
//!
//! ```text
//!  tenant's thread: execute --request--> link --socket--> the remote server
//!                    ^                                        |
//!                    +--answer-- one thread for all links <---+
//! ```
//! `plugin::nbd` says where the server is (`endpoint`) and whether connections use TLS (`certificates`). `exports` gives
//! each client a link of its own, or one link to all. nbd-client sets up a link (`connect`) and speaks on it. A link has
//! many requests in flight: the tenants' threads send them (`link`), and one thread receives the replies of all links
//! (`reader`).
//!
//! A request waits as long as its client is connected. When the client has gone and the remote server is silent, its
//! requests end (`asker`). A link of the client's own is closed, and a shared one continues for the others.
//!
//! **A broken link is not repaired.** Every request on it fails from then on, and so do flushes. Writes that the remote
//! server had acknowledged and not yet made durable may be lost, and a flush on a new connection would not report that.
//! So the client sees errors, and a client that connects again gets a new link. nbdkit does the same.
//!
//! If the export says that a flush on one connection covers the others, this holds across links too (`share`): a flush
//! on a new link fails while writes that were answered on an older link may be lost.

mod asker;
mod certificates;
mod connect;
mod dirty;
mod endpoint;
mod exports;
mod link;
mod pieces;
mod reader;
mod runtime;
mod share;

pub(crate) use self::{
    certificates::{Certificates, Tls},
    endpoint::Endpoint,
    exports::Remote,
};
