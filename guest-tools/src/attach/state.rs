//! The state of an attached disk. The relay writes it; the control socket reports it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde_json::{Value, json};

/// The state of the connection to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connected,
    /// The kernel's requests wait.
    Reconnecting,
    /// The dead timeout has expired. The kernel's requests fail until the server is back.
    Failed,
}

/// The facts that the control socket reports.
#[derive(Debug)]
pub(super) struct State {
    pub(super) device: String,
    pub(super) uri: String,
    pub(super) size: u64,
    pub(super) connections: usize,
    pub(super) read_only: bool,
    pub(super) phase: Phase,
    /// When the phase began.
    pub(super) since: Instant,
    pub(super) reconnects: u64,
    /// How many requests were sent again.
    pub(super) repeated: u64,
    /// How many acknowledged changes were sent again because the server may have lost them.
    pub(super) replayed: u64,
    pub(super) under_way: usize,
    /// Memory that acknowledged changes take, in bytes.
    pub(super) unflushed: usize,
    /// Why the connection broke or could not be made again.
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

/// The state, shared between threads.
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
