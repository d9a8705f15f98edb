//! The client between two questions.
//!
//! ```text
//!  Client::start_secure --StartTls(ClientTls)--> the caller's handshake --secured--> Client
//!                                                                                      |
//!  Client::start ---------------Ready(Ready)--> list, info, contexts, go, abort <------+
//! ```

use super::{
    client::{Client, ClientStep, put_info},
    phase::{Agreed, Phase, Turn},
    told::Told,
};
use crate::{
    Framing,
    wire::{BASE_ALLOCATION, ContextQuery, OptionCode, put_option},
};

/// The client's end, waiting for the caller's next question.
#[derive(Debug)]
pub struct Ready(pub(super) Agreed);

/// The server has agreed to TLS and waits for the handshake.
#[derive(Debug)]
#[must_use = "the negotiation continues after the handshake"]
pub struct ClientTls(pub(super) Agreed);

impl ClientTls {
    /// Continues inside TLS, after the handshake has succeeded. The result is `Feed` or `Ready`. Greeting
    /// and flags are not sent again.
    pub fn secured(self, out: &mut Vec<u8>) -> ClientStep {
        match Client::agree_framing(self.0, out) {
            Turn::Hungry(client) | Turn::Again(client) => ClientStep::Feed(client),
            Turn::Stop(step) => step,
        }
    }
}

impl Ready {
    /// Continues in plain text after the server has refused TLS (`Client::start_secure`), and agrees on
    /// the framing, which nobody has asked for yet: `Feed` or `Ready`.
    pub fn without_tls(self, out: &mut Vec<u8>) -> ClientStep {
        match Client::agree_framing(self.0, out) {
            Turn::Hungry(client) | Turn::Again(client) => ClientStep::Feed(client),
            Turn::Stop(step) => step,
        }
    }

    /// The framing that was agreed.
    pub const fn framing(&self) -> Framing {
        self.0.framing
    }

    /// Whether the server speaks fixed newstyle. If not, `go` is the only question that it answers, and the
    /// result of every other one is [`ClientStep::Refused`].
    pub const fn is_fixed(&self) -> bool {
        self.0.fixed
    }

    /// Asks for the names of the exports (NBD_OPT_LIST).
    pub fn list(self, out: &mut Vec<u8>) -> Client {
        if !self.0.fixed {
            return Client::new(self.0, Phase::Barred);
        }
        put_option(OptionCode::LIST, out, |_| ());
        Client::new(self.0, Phase::List { found: Vec::new(), bytes: 0 })
    }

    /// Asks for the description of an export (NBD_OPT_INFO). Every server refuses a name of more than 4096
    /// bytes.
    pub fn info(self, name: &str, out: &mut Vec<u8>) -> Client {
        if !self.0.fixed {
            return Client::new(self.0, Phase::Barred);
        }
        put_info(OptionCode::INFO, name, out);
        Client::new(self.0, Phase::Info { told: Told::default() })
    }

    /// Asks for the names of the metadata contexts of an export (NBD_OPT_LIST_META_CONTEXT). Contexts need
    /// structured or extended replies.
    pub fn contexts(self, name: &str, out: &mut Vec<u8>) -> Client {
        self.contexts_of(name, &[], out)
    }

    /// As [`contexts`](Self::contexts), but only the contexts that the queries find. Without a query the
    /// server names all that it tells to every client.
    pub fn contexts_of(self, name: &str, queries: &[&str], out: &mut Vec<u8>) -> Client {
        if !self.0.fixed {
            return Client::new(self.0, Phase::Barred);
        }
        put_option(OptionCode::LIST_META_CONTEXT, out, |out| {
            ContextQuery { name, queries: queries.to_vec() }.put(out);
        });
        Client::new(self.0, Phase::ContextNames { found: Vec::new(), bytes: 0 })
    }

    /// Enters the transmission of an export (NBD_OPT_GO). With `allocation`, `base:allocation` is
    /// selected if the server has it. Falls back to NBD_OPT_EXPORT_NAME.
    pub fn go(self, name: &str, allocation: bool, out: &mut Vec<u8>) -> Client {
        self.go_with(name, allocation.then_some(BASE_ALLOCATION), out)
    }

    /// As [`go`](Self::go), with any metadata contexts, by their full names. Those that the server
    /// granted are in [`Terms::contexts`](crate::Terms::contexts); their extents come with the id of
    /// their context. Contexts need structured or extended replies: without these none is asked for.
    ///
    /// Names that exceed about 4000 bytes together are refused by every server.
    pub fn go_with<'a>(
        self,
        name: &str,
        contexts: impl IntoIterator<Item = &'a str>,
        out: &mut Vec<u8>,
    ) -> Client {
        let name = name.to_owned();
        if !self.0.fixed {
            return Client::export_name(self.0, name, Vec::new(), out);
        }
        let queries: Vec<&str> = contexts.into_iter().collect();
        if queries.is_empty() || self.0.framing < Framing::Structured {
            return Client::go(self.0, name, Vec::new(), out);
        }
        let wanted = queries.iter().map(|&query| query.to_owned()).collect();
        put_option(OptionCode::SET_META_CONTEXT, out, |out| {
            ContextQuery { name: &name, queries }.put(out);
        });
        Client::new(self.0, Phase::Contexts { name, wanted, contexts: Vec::new() })
    }

    /// Ends the negotiation (NBD_OPT_ABORT). The server may acknowledge it or only close; the client need
    /// not wait for either.
    pub fn abort(self, out: &mut Vec<u8>) {
        if self.0.fixed {
            put_option(OptionCode::ABORT, out, |_| ());
        }
    }
}
