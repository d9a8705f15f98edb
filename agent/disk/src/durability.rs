//! What is known of the durability of one disk, and which of its clients have been told of a loss.
//!
//! Everybody who has the same file or device open shares one `Durability` and has a `Client` of it
//! (`registry`); so do the connections of the agent's layer `multi-conn`. A *loss* is any failure of the host to make acknowledged bytes durable: a flush or a
//! durable write that failed. What it guarantees: a flush succeeds only if
//!
//! - a sync that began after the flush was asked for has succeeded,
//! - there was no loss since the client opened the disk, and
//! - each loss before that has been told by a flush that failed: to anybody before the client came, or
//!   else to this client.
//!
//! Syncs run one at a time. Flushes that are asked for while one runs share the next: so the result
//! of every sync is known to each flush that it could concern, although the kernel reports an error to
//! one caller only.

use std::{io, sync::PoisonError};

use crate::primitives::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering};

/// Shared by all who have the same disk open.
#[derive(Debug)]
pub struct Durability {
    state: Mutex<State>,
    /// A sync has ended.
    ended: Condvar,
    /// Something was written that no sync which began later has made durable.
    dirty: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    losses: u64,
    /// As many of the losses as a failed flush has told.
    told: u64,
    /// Syncs, numbered from 1: the last that began, the last that ended, the last that failed.
    begun: u64,
    ended: u64,
    failed: u64,
}

/// One who has the disk open.
#[derive(Debug)]
pub struct Client {
    /// Losses before it came.
    before: u64,
    /// One of those is still to be told, by the first flush.
    inherits: AtomicBool,
}

impl Durability {
    /// `lost`: something was lost before, and nobody has been told.
    pub fn new(lost: bool) -> Self {
        let state = State { losses: lost.into(), ..State::default() };
        let (ended, dirty) = (Condvar::new(), AtomicBool::new(false));
        Self { state: Mutex::new(state), ended, dirty }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody more opens the disk.
    pub fn join(&self) -> Client {
        let state = self.lock();
        Client { before: state.losses, inherits: AtomicBool::new(state.told < state.losses) }
    }

    /// To be called after each change, before it is acknowledged: a sync may not have seen it.
    pub fn wrote(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// A durable write has failed. The kernel may have told that write of other bytes that are lost, and
    /// tells nobody else with the same descriptor again. `sync` finds out what it tells the others, so
    /// that no later flush takes it for another loss.
    pub fn lose(&self, sync: impl FnOnce() -> io::Result<()>) {
        self.wrote();
        let (mut state, synced) = self.sync_anew(self.lock(), sync);
        if synced.is_ok() {
            state.losses += 1;
        }
    }

    /// Something was lost of which no sync can know more.
    pub fn note_loss(&self) {
        self.lock().losses += 1;
    }

    /// For a flush that is done by other means, at its end.
    ///
    /// # Errors
    /// Why this client cannot rely on a flush; which tells it.
    pub fn tell(&self, client: &Client) -> io::Result<()> {
        tell(&mut self.lock(), client)
    }

    /// Something was lost since this client came.
    pub fn has_lost(&self, client: &Client) -> bool {
        self.lock().losses > client.before
    }

    /// Something is not known to be durable.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Something was lost and no flush has failed since.
    pub fn is_untold(&self) -> bool {
        let state = self.lock();
        state.told < state.losses
    }

    /// Makes everything durable that was acknowledged before; `sync` does it, for all clients.
    ///
    /// # Errors
    /// That of `sync`, or why this client cannot rely on a flush.
    pub fn flush(&self, client: &Client, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        // Also for one who will be refused: what was lost until now has been told then.
        let (mut state, synced) = self.sync_anew(self.lock(), sync);
        let told = tell(&mut state, client);
        synced.and(told)
    }

    /// Makes everything durable that was written before, for one request that wants to be: what was
    /// lost before is for flushes to tell.
    ///
    /// # Errors
    /// That of `sync`, which may have been another caller's.
    pub fn make_durable(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.sync_anew(self.lock(), sync).1
    }

    /// Waits for a sync that begins from now on: runs it, or shares it.
    fn sync_anew<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> (MutexGuard<'a, State>, io::Result<()>) {
        // The one that runs now may have passed what was written last.
        let needed = state.begun + 1;
        loop {
            if state.ended >= needed {
                let synced = if state.failed >= needed { Err(lost()) } else { Ok(()) };
                return (state, synced);
            }
            if state.begun == state.ended {
                break;
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.begun = needed;
        drop(state);
        let mut running = Running { durability: self, number: needed, failed: true };
        // Before it begins: what is written while it runs stays dirty.
        self.dirty.swap(false, Ordering::AcqRel);
        let synced = sync();
        running.failed = synced.is_err();
        drop(running);
        (self.lock(), synced)
    }
}

/// A sync that runs; ends when dropped, by a panic too.
struct Running<'a> {
    durability: &'a Durability,
    number: u64,
    failed: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.durability.lock();
        state.ended = self.number;
        if self.failed {
            state.failed = self.number;
            state.losses += 1;
            self.durability.wrote();
        }
        self.durability.ended.notify_all();
    }
}

/// Fails if this client's flush has to, which tells every loss so far.
fn tell(state: &mut State, client: &Client) -> io::Result<()> {
    // For ever, if it was there; once, if it came later.
    if state.losses > client.before || client.inherits.swap(false, Ordering::Relaxed) {
        state.told = state.losses;
        return Err(lost());
    }
    Ok(())
}

fn lost() -> io::Error {
    io::Error::other("an earlier flush or durable write failed: what it covered may be lost")
}
