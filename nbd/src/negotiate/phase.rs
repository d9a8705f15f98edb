//! The states of the client's negotiation.

use super::{
    client::{Client, ClientStep, Listed},
    told::Told,
};
use crate::{AgreedContext, Framing};

/// The state that all questions share.
#[derive(Debug)]
pub(super) struct Agreed {
    /// The best framing that the caller wants.
    pub(super) wish: Framing,
    pub(super) framing: Framing,
    pub(super) fixed: bool,
    pub(super) zeroes: bool,
    /// TLS has to be requested first.
    pub(super) secure: bool,
}

/// The answer that comes next.
#[derive(Debug)]
pub(super) enum Phase {
    Greeting,
    StartTls,
    Extended,
    Structured,
    List {
        found: Vec<Listed>,
        bytes: usize,
    },
    Info {
        told: Told,
    },
    ContextNames {
        found: Vec<String>,
        bytes: usize,
    },
    Contexts {
        name: String,
        /// The names of the contexts that the caller wants.
        wanted: Vec<String>,
        contexts: Vec<AgreedContext>,
    },
    Go {
        name: String,
        contexts: Vec<AgreedContext>,
        told: Told,
    },
    ExportName {
        name: String,
        contexts: Vec<AgreedContext>,
    },
    /// None: this server cannot be asked the question.
    Barred,
}

pub(super) enum Turn {
    Hungry(Client),
    Again(Client),
    Stop(ClientStep),
}
