//! The files and devices that this process has open, by device and inode: whoever opens one of them,
//! under whatever name and with whatever options, shares its durability and its locks.
//!
//! `file` joins at each open. An entry stays as long as anybody has the file open, and longer where
//! that is needed so that no loss goes untold: when the last one leaves something that is not known to
//! be durable, a last sync finds out; and where something was lost and nobody has been told, the entry
//! keeps that, without a descriptor, for the next one who opens the file.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, PoisonError},
};

use crate::{
    Identity, LOSS,
    auditor::{Audit, Begun},
    durability::{Client, Durability},
    file::Inode,
    primitives::{AtomicBool, Mutex, MutexGuard, Ordering},
};

/// The one descriptor of a file that hears of every error of writeback exactly once: it is open as long
/// as anybody writes through any other, and nothing but `sync` uses it.
pub(crate) trait Witness: fmt::Debug + Send + Sync {
    /// Makes durable what anybody has written. Fails if anything was lost since it was opened, or
    /// since it failed last.
    fn sync(&self) -> io::Result<()>;

    /// The file has no name any more: when it is closed, it is gone.
    fn is_unlinked(&self) -> bool;

    /// Before a durable write begins.
    fn begin(&self) -> Begun;

    /// Whether one that has succeeded is durable (`auditor`).
    fn audit(&self, begun: Begun) -> Audit;
}

/// Entries of one process. Clones are the same registry.
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
        /// Who has it open.
        members: usize,
        /// Everybody who ever joined.
        joined: u64,
        /// The last one has left, and finds out whether all is durable.
        settling: bool,
    },
    /// Nobody has it open. Something was lost, and nobody has been told. One entry for each file of the
    /// host that has lost something: there is no need for a bound.
    Lost { identity: Identity },
}

/// What all who have the same file open share.
#[derive(Debug)]
struct Shared<W> {
    identity: Identity,
    /// For the log.
    name: String,
    witness: W,
    durability: Durability,
    /// A loss was logged, and no flush has succeeded since.
    logged: AtomicBool,
}

impl<W: Witness> Shared<W> {
    fn sync(&self) -> io::Result<()> {
        self.witness.sync().inspect_err(|error| self.log(error))
    }

    /// One line for a disk that fails again and again, as a client that knows of it could have it do.
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

    /// Joins those who have the file open, if anybody has.
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

    /// The same where nobody has it open: with a witness, and a name for the log.
    pub(crate) fn join_with(
        &self,
        inode: Inode,
        identity: Identity,
        name: String,
        witness: W,
    ) -> Member<W> {
        let mut entries = self.lock();
        // An inode's number, or a device's, is used again.
        let lost = match entries.get(&inode) {
            Some(Entry::Open { .. }) => {
                drop(entries);
                // Somebody came first. If they have left meanwhile, there is another round.
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

    /// Somebody has left. Takes as long as a sync may take, if that was the last one.
    fn leave(&self, inode: Inode) {
        let (shared, mut seen) = {
            let mut entries = self.lock();
            let Some(Entry::Open { shared, members, joined, settling }) = entries.get_mut(&inode)
            else {
                return;
            };
            *members -= 1;
            // Who settles looks again at the end.
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
                // Nobody waits for a descriptor to be closed.
                drop(entries);
                drop(closed);
                return;
            }
            // Others came, wrote and left meanwhile.
            seen = *joined;
        }
    }
}

impl<W: Witness> Shared<W> {
    /// The last one has left: whether something is lost that nobody was told.
    fn settle(&self) -> bool {
        let durability = &self.durability;
        if !durability.is_dirty() && !durability.is_untold() {
            return false;
        }
        if self.witness.is_unlinked() {
            return false;
        }
        if durability.is_dirty() {
            // A failure is kept as a loss, and logged.
            durability.make_durable(|| self.sync()).ok();
        }
        durability.is_untold()
    }
}

/// One who has a file open. Leaves when dropped, which may take as long as a sync.
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

    /// The device, or the filesystem, that the file is on.
    pub(crate) fn medium(&self) -> u64 {
        self.inode.device
    }

    /// Does a change. A flush has to see to it, also if it failed: it may have been done in part.
    pub(crate) fn change<T>(&self, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let changed = change();
        self.wrote();
        changed
    }

    /// Something was changed, or may have been in part: a flush has to see to it.
    pub(crate) fn wrote(&self) {
        self.shared.durability.wrote();
    }

    /// Does a write that has to be durable when it is acknowledged; `write` says whether it is. Whatever
    /// fails here may have been the last word about bytes that others wrote.
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

    /// Before a durable write that goes on by itself.
    pub(crate) fn begin_durable(&self) -> Begun {
        self.shared.witness.begin()
    }

    /// When it has come back: whether it is durable, if it was done at all. What has failed is a loss from here on,
    /// also if the write succeeds when it is done once more: it may have been the last word about bytes that others
    /// wrote, such as the failure of the device's cache, which is told once. Waits for nothing.
    pub(crate) fn end_durable(&self, begun: Begun, failed: Option<io::Error>) -> bool {
        let lost = match failed {
            // The request was not taken, or was not for the ring.
            Some(error) if is_refusal(&error) => None,
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

    /// Makes everything durable that anybody was acknowledged before.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.shared.durability.flush(&self.client, || self.shared.sync())?;
        self.shared.logged.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Makes durable what was written before, for one request that has to be.
    pub(crate) fn make_durable(&self) -> io::Result<()> {
        self.shared.durability.make_durable(|| self.shared.sync())
    }

    /// Something was lost since this one came.
    pub(crate) fn has_lost(&self) -> bool {
        self.shared.durability.has_lost(&self.client)
    }

    /// To leave may take its time.
    pub(crate) fn owes(&self) -> bool {
        self.shared.durability.is_dirty()
    }
}

/// The kernel did not begin it.
fn is_refusal(error: &io::Error) -> bool {
    let errnos =
        [libc::EAGAIN, libc::EINTR, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS, libc::ECANCELED];
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
