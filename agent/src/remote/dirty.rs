//! Which links have writes that were answered and are not durable.
//!
//! `share` asks before it flushes, `link` keeps its account here. Links and shares are numbered in the
//! order in which they come, so that an age is a number.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::link::Link;
use disk::Durability;

/// The links of one export of the far server, and who has them.
#[derive(Debug)]
pub(super) struct Dirty {
    book: Mutex<Book>,
    /// Of what the far server said itself that it could not make durable.
    pub(super) durability: Durability,
}

impl Default for Dirty {
    fn default() -> Self {
        Self { book: Mutex::default(), durability: Durability::new(false) }
    }
}

#[derive(Debug, Default)]
struct Book {
    last: u64,
    links: BTreeMap<u64, Weak<Link>>,
    shares: BTreeSet<u64>,
    /// Links that were lost with writes and are gone.
    gone: Vec<Gone>,
    /// There was another, no flush has failed for it, and nobody is there whom it concerned.
    untold: bool,
}

#[derive(Debug)]
struct Gone {
    link: u64,
    /// The last number that was given by then: it concerns all shares up to that.
    until: u64,
    /// A flush has failed for it: it does not concern shares that come later.
    told: bool,
}

impl Book {
    fn is_untold(&self) -> bool {
        self.untold || self.gone.iter().any(|gone| !gone.told)
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// What a flush on a link has to speak for besides that link.
pub(super) struct Others {
    /// Older ones, whose clients may have been answered by a server that has died since.
    pub(super) older: Vec<Arc<Link>>,
    /// Lost and gone, by number.
    pub(super) gone: Vec<u64>,
}

impl Dirty {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was lost, and no flush has failed since.
    pub(super) fn is_untold(&self) -> bool {
        self.lock().is_untold() || self.durability.is_untold()
    }

    /// A flush fails, and tells of all that is gone by now.
    pub(super) fn tell(&self) {
        let mut book = self.lock();
        book.untold = false;
        book.gone.iter_mut().for_each(|gone| gone.told = true);
    }

    /// Makes a link. It has to be connected already: its age counts from here.
    pub(super) fn enter(
        self: &Arc<Self>,
        make: impl FnOnce(Account) -> io::Result<Link>,
    ) -> io::Result<Arc<Link>> {
        let number = self.lock().number();
        let (written, durable) = (AtomicU64::new(0), AtomicU64::new(0));
        let (dirty, told) = (Arc::clone(self), AtomicBool::new(false));
        let account = Account { dirty, number, written, durable, told };
        let link = Arc::new(make(account)?);
        self.lock().links.insert(number, Arc::downgrade(&link));
        Ok(link)
    }

    /// Somebody has a link: the number, and whether something was lost before that nobody was told of.
    pub(super) fn sit(&self) -> (u64, bool) {
        let mut book = self.lock();
        let number = book.number();
        book.shares.insert(number);
        (number, book.is_untold())
    }

    /// Somebody has gone: losses that concern nobody any more are forgotten, if they were told.
    pub(super) fn rise(&self, share: u64) {
        let mut book = self.lock();
        book.shares.remove(&share);
        let oldest = book.shares.first().copied();
        let Book { gone, untold, .. } = &mut *book;
        gone.retain(|gone| {
            let concerns = oldest.is_some_and(|oldest| oldest <= gone.until);
            *untold |= !concerns && !gone.told;
            concerns
        });
    }

    /// For a flush of `share` on `link`.
    pub(super) fn others(&self, share: u64, link: &Account) -> Others {
        let book = self.lock();
        let older: Vec<_> =
            book.links.range(..link.number).filter_map(|(_, link)| link.upgrade()).collect();
        let concerns = |gone: &&Gone| gone.link < link.number && share <= gone.until;
        let gone = book.gone.iter().filter(concerns).map(|gone| gone.link).collect();
        // A link whose last owner this is by now takes the lock when it goes.
        drop(book);
        Others { older, gone }
    }
}

/// What one link owes to its clients.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) dirty: Arc<Dirty>,
    pub(super) number: u64,
    /// Writes that were answered, and how many of them are durable.
    written: AtomicU64,
    durable: AtomicU64,
    /// It is lost with writes, and a flush has failed for that.
    pub(super) told: AtomicBool,
}

impl Account {
    /// A write was done, and may be lost.
    pub(super) fn wrote(&self) {
        self.written.fetch_add(1, Ordering::AcqRel);
    }

    /// For `flushed`: taken before the flush is sent.
    pub(super) fn mark(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// What was written up to the mark is durable.
    pub(super) fn flushed(&self, mark: u64) {
        self.durable.fetch_max(mark, Ordering::AcqRel);
    }

    pub(super) fn owes_nothing(&self) -> bool {
        self.durable.load(Ordering::Acquire) >= self.mark()
    }

    /// The link ends, broken or not.
    pub(super) fn close(&self, broken: bool) {
        let mut book = self.dirty.lock();
        book.links.remove(&self.number);
        if broken && !self.owes_nothing() {
            let (link, until, told) = (self.number, book.last, self.told.load(Ordering::Relaxed));
            if book.shares.is_empty() {
                book.untold |= !told;
            } else {
                book.gone.push(Gone { link, until, told });
            }
        }
    }
}
