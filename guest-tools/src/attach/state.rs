//! What is known of an attached disk while it is: written by the relay, read by whoever asks.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde_json::{Value, json};

/// How the connection to the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connected,
    /// The kernel's requests wait.
    Reconnecting,
    /// The dead timeout is over: the kernel's requests fail until the server is back.
    Failed,
}

/// The facts.
#[derive(Debug)]
pub(super) struct State {
    pub(super) device: String,
    pub(super) uri: String,
    pub(super) size: u64,
    pub(super) connections: usize,
    pub(super) read_only: bool,
    pub(super) phase: Phase,
    /// Since when it is so.
    pub(super) since: Instant,
    pub(super) reconnects: u64,
    /// Requests that were asked for again.
    pub(super) repeated: u64,
    /// Changes that were acknowledged and asked for again, because the server may have lost them.
    pub(super) replayed: u64,
    pub(super) under_way: usize,
    /// Memory that acknowledged changes take, bytes.
    pub(super) unflushed: usize,
    /// Why the connection broke, or could not be made again.
    pub(super) last_error: Option<String>,
}

impl State {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "device": self.device,
            "uri": self.uri,
            "state": self.phase.name(),
            "since": self.since.elapsed().as_secs(),
            "size": self.size,
            "connections": self.connections,
            "read_only": self.read_only,
            "reconnects": self.reconnects,
            "repeated": self.repeated,
            "replayed": self.replayed,
            "under_way": self.under_way,
            "unflushed": self.unflushed,
            "last_error": self.last_error,
            "pid": std::process::id(),
        })
    }
}

impl Phase {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Reconnecting => "reconnecting",
            Self::Failed => "failed",
        }
    }
}

/// The facts, for two threads.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
