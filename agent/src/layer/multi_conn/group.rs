//! The connections among which each flush covers what any of them was answered.

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

/// Groups by the name of their export; all are one where it does not matter.
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
        // Connections have theirs, and those that are being closed.
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
    /// Of the disks of other connections than the one that flushes, each of which has its own.
    durability: Durability,
    track: Track,
    /// Of all connections.
    work: Work,
    /// Those that are open, and those that are being closed and may have something to be flushed.
    disks: Mutex<Vec<Arc<Below>>>,
}

/// The disk below one connection.
#[derive(Debug)]
struct Below {
    disk: Arc<dyn Disk>,
    writes: Work,
    /// Reads too: a disk may keep what it has read for one connection, as nbdkit sees it.
    work: Work,
    /// The last flush did, and so may all others on this connection.
    failed: AtomicBool,
}

/// What was done, and how much of it a flush has covered.
#[derive(Debug, Default)]
struct Work {
    done: AtomicU64,
    flushed: AtomicU64,
}

impl Work {
    fn count(&self) {
        self.done.fetch_add(1, Ordering::AcqRel);
    }

    /// To be taken before a flush: what is done while it runs, it may not cover.
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
    /// Flushes or settles it. What was written before is seen to then, also where it fails: who calls this has the
    /// group know of a loss, and the same is not told twice.
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
    /// Flushes every disk that needs it. `done`: this one only if it was written since its own flush.
    fn sync(&self, done: Option<&Below>) -> Result<(), DiskError> {
        let mark = self.work.mark();
        let disks = lock(&self.disks).clone();
        let mut synced = Ok(());
        for below in disks {
            let may_need_it = match self.track {
                _ if done.is_some_and(|done| std::ptr::eq(done, Arc::as_ptr(&below))) => false,
                // All that it was asked for has been told to be lost.
                _ if below.failed.load(Ordering::Relaxed) => false,
                Track::Fast => !self.work.is_flushed(),
                Track::Connection => !below.work.is_flushed(),
                Track::Off => true,
            };
            if may_need_it || !below.writes.is_flushed() {
                // Each, whatever comes of another.
                let flushed = below.flush(Op::Settle);
                synced = synced.and(flushed);
            }
        }
        if synced.is_ok() {
            self.work.flushed(mark);
        }
        synced
    }

    /// Has the durability do something with a sync. If the sync fails that this caller ran, its error is
    /// the answer.
    fn with_sync<T>(
        &self,
        done: Option<&Below>,
        act: impl FnOnce(&Durability, &mut dyn FnMut() -> io::Result<()>) -> T,
    ) -> (T, Option<DiskError>) {
        let mut failed = None;
        let mut sync = || {
            self.sync(done).map_err(|error| {
                let told = io::Error::other(error.to_string());
                failed = Some(error);
                told
            })
        };
        (act(&self.durability, &mut sync), failed)
    }

    /// Makes everything durable that any connection wrote; `done` as in `sync`.
    fn make_durable(&self, done: Option<&Below>) -> Result<(), DiskError> {
        let (made, failed) = self.with_sync(done, |durability, sync| durability.make_durable(sync));
        made.map_err(|error| failed.unwrap_or_else(|| flush_failed(error)))
    }
}

fn flush_failed(source: io::Error) -> DiskError {
    DiskError { source: Some(source), ..DiskError::new(Kind::Io, Verb::Flush, (0, 0)) }
}

/// One connection of a group. What it leaves unflushed is flushed when it is dropped, on another thread.
#[derive(Debug)]
pub(super) struct Connection {
    group: Arc<Group>,
    client: Client,
    own: Arc<Below>,
}

impl Connection {
    /// A request is done, or has failed.
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
        // Where it failed before, it may go on to fail for ever, with nothing more that is lost.
        let known = self.own.failed.load(Ordering::Relaxed) && self.own.writes.is_flushed();
        let flushed = self.own.flush(op);
        if flushed.is_err() && !known {
            self.lose();
        }
        flushed
    }

    /// Makes durable what this connection and all others were answered. Fails also if any of it is lost
    /// that this client has to be told of.
    pub(super) fn flush(&self) -> Result<(), DiskError> {
        let own = self.flush_own(Op::Flush);
        let (others, failed) = self
            .group
            .with_sync(Some(&self.own), |durability, sync| durability.flush(&self.client, sync));
        own.and_then(|()| others.map_err(|error| failed.unwrap_or_else(|| flush_failed(error))))
    }

    /// The same for the agent itself: what is lost is still to be told.
    pub(super) fn settle(&self) -> Result<(), DiskError> {
        let own = self.flush_own(Op::Settle);
        own.and_then(|()| self.group.make_durable(Some(&self.own)))
    }

    /// The disk has told this connection of a loss, and may not tell it again: all are to hear of it.
    pub(super) fn lose(&self) {
        self.group.with_sync(None, |durability, sync| durability.lose(sync));
    }

    /// This connection has written something durable, which has to be so for all: where a flush may
    /// have to reach other disks, so may this.
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

/// A connection that has gone, until what it wrote is durable or known to be lost.
struct Closing {
    group: Arc<Group>,
    own: Arc<Below>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        if !self.own.writes.is_flushed() {
            // Where it fails, the next client is told.
            if let Err(error) = self.group.make_durable(None) {
                tracing::error!(
                    target: disk::LOSS,
                    "filter multi-conn: {error}, which a client left unflushed"
                );
            }
        }
        lock(&self.group.disks).retain(|other| !Arc::ptr_eq(other, &self.own));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
