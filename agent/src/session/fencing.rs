//! Clients that come back: a new connection stands in place of the client's old ones.
//!
//! A connection that broke may have asked for changes that a disk still works on. If its client connects
//! anew, asks again and goes on, such a change could come last and undo a newer one. So a client names
//! itself by a token (`x-agent:instead`), and its new connection is let in when nothing of the old ones
//! is under way any more. `negotiate` asks here; a session and each of its requests on a blocking thread
//! hold a `Fenced`.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError},
};

use tokio::sync::watch;

use super::contexts::FencingToken;
use crate::{
    access::{Revocation, Revoker},
    primitives::{Mutex, MutexGuard},
};

/// What the log says of a connection that was followed by another.
pub(super) const FOLLOWED: &str = "its client has come back on a new connection";

/// The clients that have named themselves.
#[derive(Default)]
pub struct Fencing(Mutex<Clients>);

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
    /// Another has come in its place: it begins nothing any more, whatever becomes of the other.
    followed: bool,
    /// It has a disk: until it ends there may be something under way.
    active: bool,
    /// Its other end is in the `Fenced`.
    end: watch::Receiver<()>,
}

/// A connection whose client has named itself. It ends with its last holder.
pub(super) struct Fenced {
    clients: Arc<Fencing>,
    fencing: FencingToken,
    number: u64,
    revocation: Revocation,
    /// Closes when the last `Fenced` is dropped.
    _end: watch::Sender<()>,
}

impl Fencing {
    /// Makes a connection stand in place of all of a lower generation: these end, and when nothing of
    /// theirs is under way any more, it is one. `None` if another one stands in its place already.
    pub(super) async fn follow(self: &Arc<Self>, fencing: FencingToken) -> Option<Arc<Fenced>> {
        let fenced = self.enter(fencing)?;
        // Others of the same generation wait for the same.
        while let Some(mut end) = self.before(fencing) {
            // An error is what it waits for.
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
    /// Before the connection's first request. Says no when it has been followed by another.
    pub(super) fn begin(&self) -> bool {
        let mut clients = self.clients.clients();
        let connections = clients.by_token.entry(self.fencing.token).or_default();
        let own = connections.iter_mut().find(|known| known.number == self.number);
        own.filter(|known| !known.followed).map(|known| known.active = true).is_some()
    }

    /// Told when it is followed by another.
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
            // Tokens are many over the years of an agent.
            if clients.by_token.len() < clients.by_token.capacity() / 4 {
                clients.by_token.shrink_to_fit();
            }
        }
    }
}

/// Tokens are secrets of their clients.
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
