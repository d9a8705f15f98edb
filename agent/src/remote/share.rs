//! One client's share of a link: its flushes cover all links of the export.
//!
//! The clients of an export with CAN_MULTI_CONN expect a flush on one connection to cover all. The remote server can
//! promise this only while it lives: writes on an older link may have been answered by a server that has died since. So
//! a flush also goes to older links that have unflushed writes, and fails if such a link is broken. A younger link
//! needs no flush, because its server is the one that answers now.
//!
//! Each client is told of each loss once. A client that connects later is told of it if no flush had failed for it. A
//! failure that the remote server itself reports fails every later flush of each client that was connected then, as
//! with a disk of this host.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{asker::Asker, dirty::Others, link::Link};
use disk::{Answer, Client, Disk, DiskError, DiskInfo, Kind, Op, Progress, Turn, Verb};

/// How long the remote server may take to flush the unflushed writes of a client that has gone.
const LAST_FLUSH: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Share {
    link: Arc<Link>,
    number: u64,
    asker: Asker,
    /// Links whose losses a flush of this client has reported.
    told: Mutex<BTreeSet<u64>>,
    /// Something was lost before this client connected, and its first flush must report it.
    inherits: AtomicBool,
    client: Client,
}

impl Share {
    pub(super) fn on(link: Arc<Link>) -> Self {
        let dirty = &link.account().dirty;
        let ((number, inherits), client) = (dirty.sit(), dirty.durability.join());
        let own = (!link.shared_by_all).then_some(link.account().number);
        let (asker, told) = (Asker::present(own), Mutex::default());
        Self { link, number, asker, told, inherits: inherits.into(), client }
    }

    fn told(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flushes this link and the older ones. `tell` says whether the client is told the result.
    fn flush(&self, tell: bool) -> Result<(), DiskError> {
        let account = self.link.account();
        let dirty = &account.dirty;
        let Others { older, gone } = dirty.others(self.number, account);
        let known = self.told().clone();
        let mut lost: Vec<_> = gone.into_iter().filter(|number| !known.contains(number)).collect();
        let mut failed = None;
        for link in &older {
            let account = link.account();
            let is_over = known.contains(&account.number) || !account.concerns(self.number);
            if account.owes_nothing() || is_over {
                continue;
            }
            match link.flush(&self.asker) {
                Ok(()) => {}
                Err(_) if link.is_broken() => lost.push(account.number),
                Err(error) => failed = Some(error),
            }
        }
        let own = self.link.flush(&self.asker);
        if failed.is_some() || (own.is_err() && !self.link.is_broken()) {
            dirty.durability.note_loss();
        }
        failed = own.err().or(failed);
        if tell {
            let heard = dirty.durability.tell(&self.client);
            let inherited = self.inherits.swap(false, Ordering::Relaxed);
            if failed.is_none() && lost.is_empty() && heard.is_ok() && !inherited {
                return Ok(());
            }
            // Recorded only now, so that a flush that began before this one failed fails too.
            self.told().extend(lost);
            dirty.tell();
            for link in older.iter().chain([&self.link]).filter(|link| link.is_broken()) {
                link.account().tell();
            }
        } else if failed.is_none() && lost.is_empty() {
            return Ok(());
        }
        Err(failed.unwrap_or_else(|| {
            let why = "what another connection wrote may be lost before it was flushed";
            let source = Some(io::Error::other(format!("{}: {why}", self.link.far())));
            DiskError { source, ..DiskError::new(Kind::Io, Verb::Flush, (0, 0)) }
        }))
    }
}

/// Whether a failed request was tried. Its error may then be the remote server's only report about other bytes.
fn is_loss(op: &Op<'_>, error: &DiskError) -> bool {
    matches!(error.kind, Kind::Io | Kind::NoSpace)
        && matches!(
            op,
            Op::Write { fua: true, .. } | Op::Trim { fua: true, .. } | Op::Zero { fua: true, .. }
        )
}

impl Disk for Share {
    fn info(&self) -> DiskInfo {
        self.link.info()
    }

    fn try_execute(&self, _: &mut Op<'_>, _: &mut Answer) -> Result<Turn, DiskError> {
        Ok(Turn::WouldBlock)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        // If flushes cover one connection only, a failed request concerns this connection alone.
        let covers_others = self.link.covers_others();
        if op.verb() == Verb::Flush && covers_others {
            return self.flush(matches!(op, Op::Flush)).map(|()| Progress::Done);
        }
        let done = self.link.execute(&self.asker, op, answer);
        if let Err(error) = &done
            && covers_others
            && is_loss(op, error)
            && !self.link.is_broken()
        {
            self.link.account().dirty.durability.note_loss();
        }
        done
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn client_gone(&self) {
        self.asker.leave();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.link.account().dirty.rise(self.number);
        // A shared link continues for the other clients.
        if !self.link.shared_by_all && self.link.covers_others() {
            let leaving = Leaving(Arc::clone(&self.link));
            if leaving.owes() {
                disk::close(leaving);
            }
        }
    }
}

/// A link whose client has gone, until the client's unflushed writes are durable at the remote server. If the server
/// dies before, no client is there to notice.
struct Leaving(Arc<Link>);

impl Leaving {
    fn owes(&self) -> bool {
        !self.0.is_broken() && !self.0.account().owes_nothing()
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.owes() {
            return;
        }
        if let Err(error) = self.0.flush_within(LAST_FLUSH) {
            let far = self.0.far();
            tracing::error!(
                target: disk::LOSS,
                far,
                "a client has left, and what it wrote cannot be flushed: {error}"
            );
            if !self.0.is_broken() {
                self.0.account().dirty.durability.note_loss();
            }
        }
    }
}
