//! Clients that reconnect: a new connection replaces the client's older ones.
//!
//! A connection that broke may have requested changes that a disk still works on. If its client reconnects, repeats the
//! requests and continues, such a change could be applied last and undo a newer one. So a client identifies itself by a
//! token (`x-agent:instead`). Its new connection is admitted once no request of the older connections is in progress.
//! `negotiate` calls `Fencing::follow`. A session and each of its requests on a blocking thread hold a `Fenced`.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError},
};

use agent_contexts::FencingToken;
use tokio::sync::watch;

use crate::{
    access::{Revocation, Revoker},
    primitives::{Mutex, MutexGuard},
};

/// The reason in the log when a connection was replaced by a newer one.
pub(super) const FOLLOWED: &str = "its client has come back on a new connection";

/// The clients that have sent a token.
#[derive(Default)]
pub(crate) struct Fencing(Mutex<Clients>);

#[derive(Default)]
struct Clients {
    by_token: HashMap<u128, Vec<Known>>,
    next: u64,
}

/// A connection of a client.
struct Known {
    number: u64,
    generation: u64,
    revoker: Revoker,
    /// A newer connection has replaced it. It begins no further request, even if the newer connection ends.
    followed: bool,
    /// It has a disk. Until it ends, requests of it may be in progress.
    active: bool,
    /// Closes when the last `Fenced` is dropped, which holds the sender.
    end: watch::Receiver<()>,
}

/// A connection whose client has sent a token. It ends when its last holder drops it.
pub(super) struct Fenced {
    clients: Arc<Fencing>,
    fencing: FencingToken,
    number: u64,
    revocation: Revocation,
    /// Closes when the last `Fenced` is dropped.
    _end: watch::Sender<()>,
}

impl Fencing {
    /// Replaces the client's connections of a lower generation by a new one: revokes them, and returns the new one once
    /// no request of theirs is in progress. `None` if a connection of a higher generation exists already.
    pub(super) async fn follow(self: &Arc<Self>, fencing: FencingToken) -> Option<Arc<Fenced>> {
        let fenced = self.enter(fencing)?;
        // Other connections of the same generation may wait here too.
        while let Some(mut end) = self.before(fencing) {
            // It waits for the error that the dropped sender causes.
            while end.changed().await.is_ok() {}
        }
        Some(fenced)
    }

    fn enter(self: &Arc<Self>, fencing: FencingToken) -> Option<Arc<Fenced>> {
        let mut clients = self.clients();
        clients.next += 1;
        let number = clients.next;
        let connections = clients.by_token.entry(fencing.token).or_default();
        if connections.iter().any(|known| known.generation > fencing.generation) {
            return None;
        }
        for known in connections.iter_mut().filter(|known| known.generation < fencing.generation) {
            known.followed = true;
            known.revoker.revoke(FOLLOWED);
        }
        let revoker = Revoker::default();
        let revocation = revoker.revocation();
        let (sender, end) = watch::channel(());
        let generation = fencing.generation;
        let known = Known { number, generation, revoker, followed: false, active: false, end };
        connections.push(known);
        let clients = Arc::clone(self);
        Some(Arc::new(Fenced { clients, fencing, number, revocation, _end: sender }))
    }

    /// The end of an older connection that has a disk.
    fn before(&self, fencing: FencingToken) -> Option<watch::Receiver<()>> {
        let clients = self.clients();
        let connections = clients.by_token.get(&fencing.token)?;
        let older = |known: &&Known| known.generation < fencing.generation && known.active;
        Some(connections.iter().find(older)?.end.clone())
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fenced {
    /// Called before the connection's first request. Returns false if a newer connection has replaced it.
    pub(super) fn begin(&self) -> bool {
        let mut clients = self.clients.clients();
        let connections = clients.by_token.entry(self.fencing.token).or_default();
        let own = connections.iter_mut().find(|known| known.number == self.number);
        own.filter(|known| !known.followed).map(|known| known.active = true).is_some()
    }

    /// Revoked when a newer connection replaces this one.
    pub(super) fn revocation(&self) -> Revocation {
        self.revocation.clone()
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        let mut clients = self.clients.clients();
        let Some(connections) = clients.by_token.get_mut(&self.fencing.token) else { return };
        connections.retain(|known| known.number != self.number);
        if connections.is_empty() {
            clients.by_token.remove(&self.fencing.token);
            // Over the years of an agent's life there are many tokens.
            if clients.by_token.len() < clients.by_token.capacity() / 4 {
                clients.by_token.shrink_to_fit();
            }
        }
    }
}

/// Omits the tokens, which are secrets of their clients.
impl fmt::Debug for Fencing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fencing").finish_non_exhaustive()
    }
}

impl fmt::Debug for Fenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fenced").field("fencing", &self.fencing).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "loom"))]
mod interleavings;
#[cfg(all(test, not(feature = "loom")))]
mod tests;
