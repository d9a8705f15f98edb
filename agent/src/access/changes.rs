//! Changes of the rules while the agent serves. A gate announces a change, and every session receives it.

use std::{future, sync::Arc};

use tokio::sync::watch;

/// Announces changes of the rules. All clones announce to the same sessions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes(Arc<watch::Sender<()>>);

impl Changes {
    /// Announces that the gates have new rules.
    pub(crate) fn tell(&self) {
        self.0.send_replace(());
    }

    /// Subscribes a connection. This comes before the gates are asked, so that no change is missed.
    pub(crate) fn watch(&self) -> Changed {
        Changed(self.0.subscribe())
    }
}

/// Receives changes.
#[derive(Debug)]
pub(crate) struct Changed(watch::Receiver<()>);

impl Changed {
    /// Waits for the next change.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // No sender is left, so no change can come.
            future::pending::<()>().await;
        }
    }
}
