//! Rules that change while the agent serves: told by the gate, heard by every session.

use std::{future, sync::Arc};

use tokio::sync::watch;

/// Says that the rules of a gate have changed. All clones say it to the same sessions.
#[derive(Debug, Clone, Default)]
pub struct Changes(Arc<watch::Sender<()>>);

impl Changes {
    /// The gates answer by other rules from now on.
    pub fn tell(&self) {
        self.0.send_replace(());
    }

    /// For a connection, before the gates are asked about it: no change is missed between.
    pub fn watch(&self) -> Changed {
        Changed(self.0.subscribe())
    }
}

/// Hears of changes.
#[derive(Debug)]
pub struct Changed(watch::Receiver<()>);

impl Changed {
    /// Waits for one that was not heard of yet.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody can change them any more.
            future::pending::<()>().await;
        }
    }
}
