//! The client between two questions: what it may ask.
//!
//! ```text
//!  Client::start_secure --StartTls(ClientTls)--> the caller's handshake --secured--> Client
//!                                                                                      |
//!  Client::start ---------------Ready(Ready)--> list, info, contexts, go, abort <------+
//! ```

use super::client::{Agreed, Client, ClientStep, Phase, Turn, put_info};
use super::told::Told;
use crate::{
    Framing,
    wire::{BASE_ALLOCATION, ContextQuery, OptionCode, put_option},
};

/// The client's end, waiting for a question.
#[derive(Debug)]
pub struct Ready(pub(super) Agreed);

/// The server waits for the TLS handshake.
#[derive(Debug)]
#[must_use = "the negotiation goes on behind the handshake"]
pub struct ClientTls(pub(super) Agreed);

impl ClientTls {
    /// Goes on inside TLS, once the handshake has succeeded: `Feed` or `Ready`. Greeting and flags
    /// are not said again.
    pub fn secured(self, out: &mut Vec<u8>) -> ClientStep {
        match Client::agree_framing(self.0, out) {
            Turn::Hungry(client) | Turn::Again(client) => ClientStep::Feed(client),
            Turn::Stop(step) => step,
        }
    }
}

impl Ready {
    /// Goes on in plain text after the server has refused TLS (`Client::start_secure`), and agrees on
    /// the framing, which nobody has asked for yet: `Feed` or `Ready`.
    pub fn without_tls(self, out: &mut Vec<u8>) -> ClientStep {
        match Client::agree_framing(self.0, out) {
            Turn::Hungry(client) | Turn::Again(client) => ClientStep::Feed(client),
            Turn::Stop(step) => step,
        }
    }

    /// How messages will be framed.
    pub const fn framing(&self) -> Framing {
        self.0.framing
    }

    /// Whether the server speaks fixed newstyle; if not, all that can be asked is `go`.
    pub const fn is_fixed(&self) -> bool {
        self.0.fixed
    }

    /// Asks for the names of the exports.
    pub fn list(self, out: &mut Vec<u8>) -> Client {
        if !self.0.fixed {
            return Client::new(self.0, Phase::Barred);
        }
        put_option(OptionCode::LIST, out, |_| ());
        Client::new(self.0, Phase::List { found: Vec::new(), bytes: 0 })
    }

    /// Asks for everything about an export. A name over 4096 bytes is refused by every server.
    pub fn info(self, name: &str, out: &mut Vec<u8>) -> Client {
        if !self.0.fixed {
            return Client::new(self.0, Phase::Barred);
        }
        put_info(OptionCode::INFO, name, out);
        Client::new(self.0, Phase::Info { told: Told::default() })
    }

    /// Asks for the names of the metadata contexts of an export. They need structured replies.
    pub fn contexts(self, name: &str, out: &mut Vec<u8>) -> Client {
        self.contexts_of(name, &[], out)
    }

    /// As `contexts`: those that the queries find. None find all that the server tells to everybody.
    pub fn contexts_of(self, name: &str, queries: &[&str], out: &mut Vec<u8>) -> Client {
        if !self.0.fixed {
            return Client::new(self.0, Phase::Barred);
        }
        put_option(OptionCode::LIST_META_CONTEXT, out, |out| {
            ContextQuery { name, queries: queries.to_vec() }.put(out);
        });
        Client::new(self.0, Phase::ContextNames { found: Vec::new(), bytes: 0 })
    }

    /// Enters the transmission of an export; with `allocation`, `base:allocation` is selected if
    /// the server has it. Falls back to NBD_OPT_EXPORT_NAME.
    pub fn go(self, name: &str, allocation: bool, out: &mut Vec<u8>) -> Client {
        self.go_with(name, allocation.then_some(BASE_ALLOCATION), out)
    }

    /// As `go`, with any one context. Its extents come as those of `base:allocation` do, with its
    /// own flags; whether it was selected is in `Terms::allocation`.
    pub fn go_with(self, name: &str, context: Option<&str>, out: &mut Vec<u8>) -> Client {
        let name = name.to_owned();
        if !self.0.fixed {
            return Client::export_name(self.0, name, None, out);
        }
        if let Some(context) = context.filter(|_| self.0.framing >= Framing::Structured) {
            put_option(OptionCode::SET_META_CONTEXT, out, |out| {
                ContextQuery { name: &name, queries: vec![context] }.put(out);
            });
            let context = context.to_owned();
            return Client::new(self.0, Phase::Contexts { name, context, id: None });
        }
        Client::go(self.0, name, None, out)
    }

    /// Says goodbye. The server may acknowledge or just close; neither need be waited for.
    pub fn abort(self, out: &mut Vec<u8>) {
        if self.0.fixed {
            put_option(OptionCode::ABORT, out, |_| ());
        }
    }
}
