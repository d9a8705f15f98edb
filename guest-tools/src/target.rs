//! The argument that says which export a command is about.

use clap::Args;
use nbd::{Uri, uri::Place, wire::DEFAULT_PORT};
use vsock_cid::Cid;

/// An export, by its URI.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// nbd+vsock://[CID][:PORT]/NAME, nbd+unix:///NAME?socket=PATH or nbd://HOST[:PORT]/NAME;
    /// nbds... for TLS
    // The doc comment above is the text of --help, where neither a backtick nor a backslash may
    // stand.
    #[allow(rustdoc::broken_intra_doc_links)]
    #[arg(value_name = "URI", default_value_t = host())]
    pub(crate) uri: Uri,
}

/// The default export of this guest's host.
fn host() -> Uri {
    Uri::plain(Place::Vsock { cid: Cid::HOST, port: DEFAULT_PORT.into() }, String::new())
}
