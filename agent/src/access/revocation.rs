//! The revocation of passes: the owner of a pass can end the connections that it let in.

use std::sync::Arc;

use tokio::sync::watch;

/// Ends all connections that it let in, by `revoke` or when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Revoker(watch::Sender<Option<Arc<str>>>);

impl Revoker {
    /// Ends the connections. `why` is logged.
    pub(crate) fn revoke(&self, why: &str) {
        self.0.send_replace(Some(why.into()));
    }

    /// The revocation for a connection that is let in.
    pub(crate) fn revocation(&self) -> Revocation {
        Revocation(self.0.subscribe())
    }
}

/// Tells a connection that its pass is revoked.
#[derive(Debug, Clone)]
pub(crate) struct Revocation(watch::Receiver<Option<Arc<str>>>);

impl Revocation {
    /// Waits for the revocation, and returns the reason.
    pub(crate) async fn revoked(&mut self) -> Arc<str> {
        match self.0.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(why)) => Arc::clone(why),
            _ => "what it was granted is no more".into(),
        }
    }
}
