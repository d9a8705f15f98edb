//! Connections that share flushes: a flush on one covers the answered requests of all.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::Track;
use disk::{Answer, Client, Disk, DiskError, Durability, Kind, Op, Verb};

/// Groups by export name. There is one group where the name does not matter.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<HashMap<Option<String>, Arc<Group>>>);

impl Groups {
    pub(super) fn join(
        &self,
        export: Option<&str>,
        below: Arc<dyn Disk>,
        track: Track,
    ) -> Connection {
        let mut groups = lock(&self.0);
        // Open connections hold their group, and so do connections that are being closed.
        groups.retain(|_, group| Arc::strong_count(group) > 1 || group.durability.is_untold());
        let group = groups.entry(export.map(str::to_owned)).or_insert_with(|| {
            let durability = Durability::new(false);
            Arc::new(Group { durability, track, work: Work::default(), disks: Mutex::default() })
        });
        let (writes, work) = (Work::default(), Work::default());
        let own = Arc::new(Below { disk: below, writes, work, failed: AtomicBool::new(false) });
        lock(&group.disks).push(Arc::clone(&own));
        Connection { client: group.durability.join(), group: Arc::clone(group), own }
    }
}

#[derive(Debug)]
struct Group {
    /// Tracks losses on the disks of other connections than the one that flushes.
    durability: Durability,
    track: Track,
    /// The work of all connections.
    work: Work,
    /// The disks of open connections, and of connections that are being closed and may need a flush.
    disks: Mutex<Vec<Arc<Below>>>,
}

/// The disk below one connection.
#[derive(Debug)]
struct Below {
    disk: Arc<dyn Disk>,
    writes: Work,
    /// Writes and reads. As nbdkit sees it, a disk may cache reads per connection.
    work: Work,
    /// The last flush failed, and later ones on this connection may fail too.
    failed: AtomicBool,
}

/// Counts requests, and how many of them a flush has covered.
#[derive(Debug, Default)]
struct Work {
    done: AtomicU64,
    flushed: AtomicU64,
}

impl Work {
    fn count(&self) {
        self.done.fetch_add(1, Ordering::AcqRel);
    }

    /// The count before a flush. The flush may not cover requests that are done while it runs.
    fn mark(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    fn flushed(&self, mark: u64) {
        self.flushed.fetch_max(mark, Ordering::AcqRel);
    }

    fn is_flushed(&self) -> bool {
        self.flushed.load(Ordering::Acquire) == self.mark()
    }
}

impl Below {
    /// Flushes or settles the disk. Earlier writes then count as flushed even if this fails: the caller reports the loss
    /// to the group, and no loss is reported twice.
    fn flush(&self, mut op: Op<'_>) -> Result<(), DiskError> {
        let marks = [self.writes.mark(), self.work.mark()];
        let flushed = disk::execute_all(&*self.disk, &mut op, &mut Answer::default());
        self.failed.store(flushed.is_err(), Ordering::Relaxed);
        self.writes.flushed(marks[0]);
        self.work.flushed(marks[1]);
        flushed
    }
}

impl Group {
    /// Flushes every disk that needs it. `done` is flushed only if it was written since its own flush.
    fn sync(&self, done: Option<&Below>) -> Result<(), DiskError> {
        let mark = self.work.mark();
        let disks = lock(&self.disks).clone();
        let mut synced = Ok(());
        for below in disks {
            let may_need_it = match self.track {
                _ if done.is_some_and(|done| std::ptr::eq(done, Arc::as_ptr(&below))) => false,
                // Everything on this connection has been reported as lost.
                _ if below.failed.load(Ordering::Relaxed) => false,
                Track::Fast => !self.work.is_flushed(),
                Track::Connection => !below.work.is_flushed(),
                Track::Off => true,
            };
            if may_need_it || !below.writes.is_flushed() {
                // Flush each disk, even if another one fails.
                let flushed = below.flush(Op::Settle);
                synced = synced.and(flushed);
            }
        }
        if synced.is_ok() {
            self.work.flushed(mark);
        }
        synced
    }

    /// Does `act` with the durability and a sync. Also returns the error of the sync, if this call ran it.
    fn with_sync<T>(
        &self,
        done: Option<&Below>,
        act: impl FnOnce(&Durability, &mut dyn FnMut() -> io::Result<()>) -> T,
    ) -> (T, Option<DiskError>) {
        let mut failed = None;
        let mut sync = || {
            self.sync(done).map_err(|error| {
                // The durability cannot copy an error. It gets the text, and the caller the error itself.
                let copy = io::Error::other(error.to_string());
                failed = Some(error);
                copy
            })
        };
        (act(&self.durability, &mut sync), failed)
    }

    /// Makes the writes of all connections durable. `done` is as in `sync`.
    fn make_durable(&self, done: Option<&Below>) -> Result<(), DiskError> {
        let (made, failed) = self.with_sync(done, |durability, sync| durability.make_durable(sync));
        made.map_err(|error| failed.unwrap_or_else(|| flush_failed(error)))
    }
}

fn flush_failed(source: io::Error) -> DiskError {
    DiskError { source: Some(source), ..DiskError::new(Kind::Io, Verb::Flush, (0, 0)) }
}

/// One connection of a group. When it is dropped, its unflushed writes are flushed on another thread.
#[derive(Debug)]
pub(super) struct Connection {
    group: Arc<Group>,
    client: Client,
    own: Arc<Below>,
}

impl Connection {
    /// Counts a request that is done or has failed.
    pub(super) fn count(&self, verb: Verb) {
        let writes = matches!(verb, Verb::Write | Verb::Trim | Verb::Zero);
        if writes {
            self.own.writes.count();
            if self.group.track == Track::Fast {
                self.group.work.count();
            }
        }
        if self.group.track == Track::Connection && (writes || verb == Verb::Read) {
            self.own.work.count();
        }
    }

    fn flush_own(&self, op: Op<'_>) -> Result<(), DiskError> {
        // After a failure the disk may fail each flush without a new loss.
        let known = self.own.failed.load(Ordering::Relaxed) && self.own.writes.is_flushed();
        let flushed = self.own.flush(op);
        if flushed.is_err() && !known {
            self.lose();
        }
        flushed
    }

    /// Makes the answered requests of all connections durable. Also fails if something was lost that this client has not
    /// been told of.
    pub(super) fn flush(&self) -> Result<(), DiskError> {
        let own = self.flush_own(Op::Flush);
        let (others, failed) = self
            .group
            .with_sync(Some(&self.own), |durability, sync| durability.flush(&self.client, sync));
        own.and_then(|()| others.map_err(|error| failed.unwrap_or_else(|| flush_failed(error))))
    }

    /// The same for the agent itself: losses remain to be reported.
    pub(super) fn settle(&self) -> Result<(), DiskError> {
        let own = self.flush_own(Op::Settle);
        own.and_then(|()| self.group.make_durable(Some(&self.own)))
    }

    /// Records a loss that the disk has reported on this connection and may not report again, for all clients.
    pub(super) fn lose(&self) {
        self.group.with_sync(None, |durability, sync| durability.lose(sync));
    }

    /// Makes a durable write of this connection durable for all. Like a flush, this may have to reach other disks.
    pub(super) fn flush_others_for_write(&self) -> Result<(), DiskError> {
        self.group.make_durable(Some(&self.own))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let closing = Closing { group: Arc::clone(&self.group), own: Arc::clone(&self.own) };
        if self.own.writes.is_flushed() { drop(closing) } else { disk::close(closing) }
    }
}

/// A closed connection, until its writes are durable or known to be lost.
struct Closing {
    group: Arc<Group>,
    own: Arc<Below>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        if !self.own.writes.is_flushed() {
            // If this fails, the next client is told.
            if let Err(error) = self.group.make_durable(None) {
                tracing::error!(
                    target: disk::LOSS,
                    "filter multi-conn: cannot flush the writes of a client that has left: {error}"
                );
            }
        }
        lock(&self.group.disks).retain(|other| !Arc::ptr_eq(other, &self.own));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
