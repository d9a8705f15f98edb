//! The end of what a pass gave, before the connection's own: told by who gave it, heard by the session.

use std::sync::Arc;

use tokio::sync::watch;

/// Ends all connections that were let in by it, now or when it is dropped.
#[derive(Debug, Default)]
pub struct Revoker(watch::Sender<Option<Arc<str>>>);

impl Revoker {
    /// Ends them; `why` stands in the log.
    pub fn revoke(&self, why: &str) {
        self.0.send_replace(Some(why.into()));
    }

    /// For a connection that is let in.
    pub fn revocation(&self) -> Revocation {
        Revocation(self.0.subscribe())
    }
}

/// Tells a connection that what let it in is over.
#[derive(Debug, Clone)]
pub struct Revocation(watch::Receiver<Option<Arc<str>>>);

impl Revocation {
    /// Waits for it, and says why.
    pub async fn revoked(&mut self) -> Arc<str> {
        match self.0.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(why)) => Arc::clone(why),
            _ => "what it was granted is no more".into(),
        }
    }
}
