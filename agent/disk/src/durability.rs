//! The durability of one disk, and which of its clients have been told of a loss.
//!
//! All connections that have the same file or device open share one `Durability`, and each has a `Client` of it
//! (`registry`). So do the connections of the agent's layer `multi-conn`. A *loss* is any failure of the host to make
//! acknowledged bytes durable: a flush or a durable write that failed. A flush succeeds only if
//!
//! - a sync that began after the flush was requested has succeeded,
//! - there was no loss since the client opened the disk, and
//! - each earlier loss was reported by a failed flush, to another client before this client came, or else to this
//!   client.
//!
//! Syncs run one at a time. Flushes that are requested while a sync runs share the next one. So each flush learns the
//! result of every sync that concerns it, although the kernel reports an error to one caller only.

use std::{io, sync::PoisonError};

use crate::primitives::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering};

/// The durability of a disk, shared by all connections that have it open.
#[derive(Debug)]
pub struct Durability {
    state: Mutex<State>,
    /// Signalled when a sync ends.
    ended: Condvar,
    /// Whether bytes were written that no later sync has made durable.
    dirty: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    losses: u64,
    /// The number of losses that failed flushes have reported.
    told: u64,
    /// Numbers of syncs, counted from 1: the last that began, the last that ended, the last that failed.
    begun: u64,
    ended: u64,
    failed: u64,
}

/// A connection's view of the durability of its disk.
#[derive(Debug)]
pub struct Client {
    /// The number of losses before it opened the disk.
    before: u64,
    /// Whether its first flush has to report an earlier loss.
    inherits: AtomicBool,
}

impl Durability {
    /// With `lost`, bytes were lost before and no client has been told.
    pub fn new(lost: bool) -> Self {
        let state = State { losses: lost.into(), ..State::default() };
        let (ended, dirty) = (Condvar::new(), AtomicBool::new(false));
        Self { state: Mutex::new(state), ended, dirty }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection that opens the disk.
    pub fn join(&self) -> Client {
        let state = self.lock();
        Client { before: state.losses, inherits: AtomicBool::new(state.told < state.losses) }
    }

    /// Called after each change and before the change is acknowledged, since a running sync may not cover it.
    pub fn wrote(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// Notes that a durable write has failed. The kernel may have reported other lost bytes to this write, and does not
    /// report them again on the same descriptor. `sync` collects the reports of the other descriptors, so that no later
    /// flush takes them for another loss.
    pub fn lose(&self, sync: impl FnOnce() -> io::Result<()>) {
        self.wrote();
        let (mut state, synced) = self.sync_anew(self.lock(), sync);
        if synced.is_ok() {
            state.losses += 1;
        }
    }

    /// Notes a loss about which no sync can find out more.
    pub fn note_loss(&self) {
        self.lock().losses += 1;
    }

    /// Called at the end of a flush that was done by other means.
    ///
    /// # Errors
    /// A loss that this client has to be told of. The error counts as the report.
    pub fn tell(&self, client: &Client) -> io::Result<()> {
        tell(&mut self.lock(), client)
    }

    /// Whether bytes were lost since this client opened the disk.
    pub fn has_lost(&self, client: &Client) -> bool {
        self.lock().losses > client.before
    }

    /// Whether there are bytes that are not known to be durable.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Whether bytes were lost and no flush has failed since.
    pub fn is_untold(&self) -> bool {
        let state = self.lock();
        state.told < state.losses
    }

    /// Makes everything durable that was acknowledged before, by a call of `sync` for all clients.
    ///
    /// # Errors
    /// The error of `sync`, or a loss that this client has to be told of.
    pub fn flush(&self, client: &Client, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        // The sync also runs for a client whose flush fails anyway: that flush then reports every loss until now.
        let (mut state, synced) = self.sync_anew(self.lock(), sync);
        let told = tell(&mut state, client);
        synced.and(told)
    }

    /// Makes everything durable that was written before, for one request with FUA. Earlier losses are left to flushes.
    ///
    /// # Errors
    /// The error of `sync`, whose call another client may have made.
    pub fn make_durable(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.sync_anew(self.lock(), sync).1
    }

    /// Waits for a sync that begins from now on: runs it, or shares that of another caller.
    fn sync_anew<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> (MutexGuard<'a, State>, io::Result<()>) {
        // A sync that runs now may not cover the last writes.
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
        // Cleared before the sync begins: bytes written while it runs stay dirty.
        self.dirty.swap(false, Ordering::AcqRel);
        let synced = sync();
        running.failed = synced.is_err();
        drop(running);
        (self.lock(), synced)
    }
}

/// A running sync. It ends when dropped, also by a panic.
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

/// Fails if this client has to be told of a loss. The failure reports every loss so far.
fn tell(state: &mut State, client: &Client) -> io::Result<()> {
    // Always, if the client had the disk open at the loss; once, if it opened the disk later.
    if state.losses > client.before || client.inherits.swap(false, Ordering::Relaxed) {
        state.told = state.losses;
        return Err(lost());
    }
    Ok(())
}

fn lost() -> io::Error {
    io::Error::other("an earlier flush or durable write failed: what it covered may be lost")
}
