//! The files and devices that this process has open, by device and inode. All connections that open one of them, by any
//! name and with any options, share its durability and its locks.
//!
//! `file` joins at each open. An entry exists while a connection has the file open. It stays longer if a loss was not
//! reported yet. When the last connection leaves bytes that may not be durable, a last sync finds out. If bytes were
//! lost and no client was told, the entry keeps this fact, without a descriptor, for the next connection that opens the
//! file.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, PoisonError},
};

use crate::{
    Identity, LOSS,
    auditor::{Audit, Begun},
    durability::{Client, Durability},
    inode::Inode,
    primitives::{AtomicBool, Mutex, MutexGuard, Ordering},
};

/// The descriptor of a file that gets every writeback error exactly once. It is open while any other descriptor is
/// written to, and only `sync` uses it.
pub(crate) trait Witness: fmt::Debug + Send + Sync {
    /// Makes durable all bytes written through any descriptor. Fails if bytes were lost since the descriptor was
    /// opened, or since its last failure.
    fn sync(&self) -> io::Result<()>;

    /// Whether the file has no name any more, so that its contents end when it is closed.
    fn is_unlinked(&self) -> bool;

    /// Called before a durable write begins (`auditor`).
    fn begin(&self) -> Begun;

    /// Whether a write that has succeeded is durable (`auditor`).
    fn audit(&self, begun: Begun) -> Audit;
}

/// The registry of a process. Clones share the entries.
#[derive(Debug)]
pub(crate) struct Registry<W>(Arc<Mutex<HashMap<Inode, Entry<W>>>>);

impl<W> Clone for Registry<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
enum Entry<W> {
    Open {
        shared: Arc<Shared<W>>,
        /// The number of connections that have it open.
        members: usize,
        /// The number of connections that have ever joined.
        joined: u64,
        /// Whether the last connection has left and its last sync is running.
        settling: bool,
    },
    /// No connection has it open. Bytes were lost, and no client has been told. There is at most one such entry per
    /// file of the host, so no bound is needed.
    Lost { identity: Identity },
}

/// The state that all connections with the same file share.
#[derive(Debug)]
struct Shared<W> {
    identity: Identity,
    /// The name of the file, for the log.
    name: String,
    witness: W,
    durability: Durability,
    /// Whether a loss was logged and no flush has succeeded since.
    logged: AtomicBool,
}

impl<W: Witness> Shared<W> {
    fn sync(&self) -> io::Result<()> {
        self.witness.sync().inspect_err(|error| self.log(error))
    }

    /// Logs only one line for a disk that fails repeatedly, because a client could make it fail as often as it likes.
    fn log(&self, error: &io::Error) {
        if !self.logged.swap(true, Ordering::Relaxed) {
            let name = &self.name;
            tracing::error!(
                target: LOSS,
                "cannot make {name} durable: {error}: data may be lost; flushes fail on each \
                 connection that is open now, until its client connects again"
            );
        }
    }
}

impl<W: Witness> Registry<W> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(HashMap::new())))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Inode, Entry<W>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the connections that have the file open, if there are any.
    pub(crate) fn join(&self, inode: Inode) -> Option<Member<W>> {
        match self.lock().get_mut(&inode)? {
            Entry::Open { shared, members, joined, .. } => {
                *members += 1;
                *joined += 1;
                let (shared, client) = (Arc::clone(shared), shared.durability.join());
                Some(Member { registry: self.clone(), inode, shared, client })
            }
            Entry::Lost { .. } => None,
        }
    }

    /// Joins as the first connection, with a witness and a name for the log.
    pub(crate) fn join_with(
        &self,
        inode: Inode,
        identity: Identity,
        name: String,
        witness: W,
    ) -> Member<W> {
        let mut entries = self.lock();
        // The number of an inode or of a device can be reused.
        let lost = match entries.get(&inode) {
            Some(Entry::Open { .. }) => {
                drop(entries);
                // Another connection was first. If it has left meanwhile, the loop tries again.
                return self
                    .join(inode)
                    .unwrap_or_else(|| self.join_with(inode, identity, name, witness));
            }
            Some(Entry::Lost { identity: theirs }) => *theirs == identity,
            None => false,
        };
        let durability = Durability::new(lost);
        let client = durability.join();
        let logged = AtomicBool::new(false);
        let shared = Arc::new(Shared { identity, name, witness, durability, logged });
        let entry =
            Entry::Open { shared: Arc::clone(&shared), members: 1, joined: 1, settling: false };
        entries.insert(inode, entry);
        Member { registry: self.clone(), inode, shared, client }
    }

    /// Removes a connection. For the last one this takes as long as a sync.
    fn leave(&self, inode: Inode) {
        let (shared, mut seen) = {
            let mut entries = self.lock();
            let Some(Entry::Open { shared, members, joined, settling }) = entries.get_mut(&inode)
            else {
                return;
            };
            *members -= 1;
            // The connection that settles checks the count again at its end.
            if *members > 0 || *settling {
                return;
            }
            *settling = true;
            (Arc::clone(shared), *joined)
        };
        loop {
            let lost = shared.settle();
            let mut entries = self.lock();
            let Some(Entry::Open { members, joined, settling, .. }) = entries.get_mut(&inode)
            else {
                return;
            };
            if *members > 0 {
                *settling = false;
                return;
            }
            if *joined == seen {
                let closed = if lost {
                    let identity = shared.identity;
                    entries.insert(inode, Entry::Lost { identity })
                } else {
                    entries.remove(&inode)
                };
                // The descriptor is closed on another thread.
                drop(entries);
                drop(closed);
                return;
            }
            // Other connections have joined, written and left meanwhile.
            seen = *joined;
        }
    }
}

impl<W: Witness> Shared<W> {
    /// Called when the last connection has left. Returns whether bytes are lost and no client was told.
    fn settle(&self) -> bool {
        let durability = &self.durability;
        if !durability.is_dirty() && !durability.is_untold() {
            return false;
        }
        if self.witness.is_unlinked() {
            return false;
        }
        if durability.is_dirty() {
            // A failure is recorded as a loss and logged.
            durability.make_durable(|| self.sync()).ok();
        }
        durability.is_untold()
    }
}

/// A connection that has a file open. It leaves when dropped, which may take as long as a sync.
#[derive(Debug)]
pub(crate) struct Member<W: Witness> {
    registry: Registry<W>,
    inode: Inode,
    shared: Arc<Shared<W>>,
    client: Client,
}

impl<W: Witness> Member<W> {
    pub(crate) fn witness(&self) -> &W {
        &self.shared.witness
    }

    /// The device or the filesystem that the file is on.
    pub(crate) fn medium(&self) -> u64 {
        self.inode.device
    }

    /// Executes a change. A flush must cover it even if it fails, because a part of it may have been done.
    pub(crate) fn change<T>(&self, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let changed = change();
        self.wrote();
        changed
    }

    /// Notes that bytes were or may have been changed, so that a flush must cover them.
    pub(crate) fn wrote(&self) {
        self.shared.durability.wrote();
    }

    /// Executes a write that must be durable when it is acknowledged. `write` returns whether it is. An error here may
    /// be the kernel's only report about bytes that other connections wrote.
    pub(crate) fn write_durably(&self, write: impl FnOnce() -> io::Result<bool>) -> io::Result<()> {
        let begun = self.shared.witness.begin();
        let audited = write()
            .map(|durable| if durable { self.shared.witness.audit(begun) } else { Audit::Unknown });
        match audited {
            Ok(Audit::Durable) => Ok(()),
            Ok(Audit::Unknown) => {
                self.wrote();
                self.make_durable()
            }
            Ok(Audit::Lost(error)) | Err(error) => {
                self.shared.log(&error);
                self.shared.durability.lose(|| self.shared.sync());
                Err(error)
            }
        }
    }

    /// Call it before a durable write in a ring.
    pub(crate) fn begin_durable(&self) -> Begun {
        self.shared.witness.begin()
    }

    /// Call it when that write is done. Returns whether it is durable, if it was done at all. A failure is a loss from
    /// now on, even if the write succeeds when it is repeated: the error may be the last report about bytes that other
    /// connections wrote. An example is a failure of the device's cache, which is reported once. Does not wait.
    pub(crate) fn end_durable(&self, begun: Begun, failed: Option<io::Error>) -> bool {
        let lost = match failed {
            // The kernel did not accept the request, or cannot execute it in a ring.
            Some(error) if is_refusal(&error) => None,
            // Nothing is lost by a want of room or memory, unless it is the report of another write's.
            Some(error) if is_shortage(&error) => match self.shared.witness.audit(begun) {
                Audit::Durable => None,
                Audit::Unknown => Some(error),
                Audit::Lost(other) => Some(other),
            },
            Some(error) => Some(error),
            None => match self.shared.witness.audit(begun) {
                Audit::Durable => return true,
                Audit::Unknown => None,
                Audit::Lost(error) => Some(error),
            },
        };
        if let Some(error) = lost {
            self.shared.log(&error);
            self.shared.durability.note_loss();
        }
        self.wrote();
        false
    }

    /// Makes durable all writes that were acknowledged before on any connection.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.shared.durability.flush(&self.client, || self.shared.sync())?;
        self.shared.logged.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Makes earlier writes durable, for one request with FUA.
    pub(crate) fn make_durable(&self) -> io::Result<()> {
        self.shared.durability.make_durable(|| self.shared.sync())
    }

    /// Whether bytes were lost since this connection opened the file.
    pub(crate) fn has_lost(&self) -> bool {
        self.shared.durability.has_lost(&self.client)
    }

    /// Whether leaving needs a sync. It may take long, so the connection then leaves on another thread.
    pub(crate) fn owes(&self) -> bool {
        self.shared.durability.is_dirty()
    }
}

/// Whether the kernel did not begin the request.
fn is_refusal(error: &io::Error) -> bool {
    let errnos =
        [libc::EAGAIN, libc::EINTR, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS, libc::ECANCELED];
    error.raw_os_error().is_some_and(|errno| errnos.contains(&errno))
}

/// There is no room or memory now. The second try may find some.
fn is_shortage(error: &io::Error) -> bool {
    let errnos = [libc::ENOSPC, libc::EDQUOT, libc::ENOMEM, libc::EFBIG, libc::EBUSY];
    error.raw_os_error().is_some_and(|errno| errnos.contains(&errno))
}

impl<W: Witness> Drop for Member<W> {
    fn drop(&mut self) {
        self.registry.leave(self.inode);
    }
}

#[cfg(all(test, feature = "loom"))]
mod interleavings;
#[cfg(all(test, not(feature = "loom")))]
mod tests;
