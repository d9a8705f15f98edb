//! One client's share of a link: a flush that speaks for all links of the export.
//!
//! Clients of an export that says CAN_MULTI_CONN take a flush on one connection for a flush of all.
//! The far server's word on that is good only as long as the server lives: what an older link was
//! answered may have been answered by one that has died since. So a flush goes to older links that
//! owe one too, and where such a link is broken, the flush fails. A younger link needs nothing: its
//! server is the one that answers now. Each client hears of each loss, once.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{ledger::Others, link::Link};
use disk::{Answer, Disk, DiskError, Facts, Kind, Op, Progress, Turn, Verb};

#[derive(Debug)]
pub(super) struct Seat {
    link: Arc<Link>,
    number: u64,
    /// Links whose losses a flush has failed for.
    told: Mutex<BTreeSet<u64>>,
}

impl Seat {
    pub(super) fn on(link: Arc<Link>) -> Self {
        let number = link.account().ledger.sit();
        Self { link, number, told: Mutex::default() }
    }

    fn told(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `told`: the client hears of it.
    fn flush(&self, told: bool) -> Result<(), DiskError> {
        let account = self.link.account();
        let Others { older, gone } = account.ledger.others(self.number, account);
        let known = self.told().clone();
        let mut lost: Vec<_> = gone.into_iter().filter(|number| !known.contains(number)).collect();
        for link in older {
            let account = link.account();
            if account.owes_nothing() || known.contains(&account.number) {
                continue;
            }
            match link.flush() {
                Err(_) if link.is_broken() => lost.push(account.number),
                result => result?,
            }
        }
        self.link.flush()?;
        if lost.is_empty() {
            return Ok(());
        }
        // From here on: a flush that began before this one fails fails too.
        if told {
            self.told().extend(lost);
        }
        let why = "what another connection wrote may be lost: its connection broke before a flush";
        let source = Some(io::Error::other(format!("{}: {why}", self.link.far())));
        Err(DiskError { source, ..DiskError::new(Kind::Io, Verb::Flush, (0, 0)) })
    }
}

impl Disk for Seat {
    fn facts(&self) -> Facts {
        self.link.facts()
    }

    fn attempt(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        self.link.attempt(op, answer)
    }

    fn perform(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        // Where flushes cover one connection only, that one has failed by itself.
        if op.verb() == Verb::Flush && self.link.covers_others() {
            return self.flush(matches!(op, Op::Flush)).map(|()| Progress::Done);
        }
        self.link.perform(op, answer)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.link.account().ledger.rise(self.number);
    }
}
