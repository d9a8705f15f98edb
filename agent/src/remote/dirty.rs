//! Records which links have writes that were answered and are not durable.
//!
//! `share` asks before it flushes, and `link` keeps its account here. Links and shares are numbered in the order of
//! their creation, so a number is also an age.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use super::link::Link;
use disk::Durability;

/// The links of one export of the remote server, and the shares of its clients.
#[derive(Debug)]
pub(super) struct Dirty {
    book: Mutex<Book>,
    /// Losses that the remote server itself has reported.
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
    /// Links that were closed with lost writes.
    gone: Vec<Gone>,
    /// There was a loss that no flush has reported, and no client that it concerns is left.
    untold: bool,
}

#[derive(Debug)]
struct Gone {
    link: u64,
    /// The last number that was given at that time. The loss concerns all shares up to it.
    until: u64,
    /// A flush has failed for it, so it does not concern later shares.
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

/// Other links that a flush on a link must cover.
pub(super) struct Others {
    /// Older links, whose writes may have been answered by a server that has died since.
    pub(super) older: Vec<Arc<Link>>,
    /// The numbers of links that were closed with lost writes.
    pub(super) gone: Vec<u64>,
}

impl Dirty {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something was lost and no flush has failed since.
    pub(super) fn is_untold(&self) -> bool {
        self.lock().is_untold() || self.durability.is_untold()
    }

    /// Notes that a flush fails, which reports all losses so far.
    pub(super) fn tell(&self) {
        let mut book = self.lock();
        book.untold = false;
        book.gone.iter_mut().for_each(|gone| gone.told = true);
    }

    /// Makes a link. Connect it before the call, because its age counts from here.
    pub(super) fn enter(
        self: &Arc<Self>,
        make: impl FnOnce(Account) -> io::Result<Link>,
    ) -> io::Result<Arc<Link>> {
        let number = self.lock().number();
        let (written, durable) = (AtomicU64::new(0), AtomicU64::new(0));
        let (dirty, told) = (Arc::clone(self), AtomicU64::new(UNTOLD));
        let account = Account { dirty, number, written, durable, told };
        let link = Arc::new(make(account)?);
        self.lock().links.insert(number, Arc::downgrade(&link));
        Ok(link)
    }

    /// Registers a client's share. Returns its number, and whether an earlier loss has not been reported to any client.
    pub(super) fn sit(&self) -> (u64, bool) {
        let mut book = self.lock();
        let number = book.number();
        book.shares.insert(number);
        (number, book.is_untold())
    }

    /// Removes a share. Losses that concern no remaining share are dropped from the list. `untold` remembers one that
    /// was not reported.
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

    /// The other links that a flush of `share` on `link` must cover.
    pub(super) fn others(&self, share: u64, link: &Account) -> Others {
        let book = self.lock();
        let older: Vec<_> =
            book.links.range(..link.number).filter_map(|(_, link)| link.upgrade()).collect();
        let concerns = |gone: &&Gone| gone.link < link.number && share <= gone.until;
        let gone = book.gone.iter().filter(concerns).map(|gone| gone.link).collect();
        // If `older` has become the last owner of a link, dropping that link takes the lock.
        drop(book);
        Others { older, gone }
    }
}

/// The unflushed writes of one link.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) dirty: Arc<Dirty>,
    pub(super) number: u64,
    /// Number of writes that were answered. `durable` counts those that are durable.
    written: AtomicU64,
    durable: AtomicU64,
    /// The last number that was given when a flush first failed because the link was lost with writes. The loss concerns
    /// no later share. `UNTOLD` until then.
    told: AtomicU64,
}

/// No flush has failed yet.
const UNTOLD: u64 = u64::MAX;

impl Account {
    /// Notes a write that was done and may be lost.
    pub(super) fn wrote(&self) {
        self.written.fetch_add(1, Ordering::AcqRel);
    }

    /// The argument for `flushed`. Take it before the flush is sent.
    pub(super) fn mark(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Notes that all writes up to the mark are durable.
    pub(super) fn flushed(&self, mark: u64) {
        self.durable.fetch_max(mark, Ordering::AcqRel);
    }

    pub(super) fn owes_nothing(&self) -> bool {
        self.durable.load(Ordering::Acquire) >= self.mark()
    }

    /// Notes that a flush fails because the link was lost with writes.
    pub(super) fn tell(&self) {
        let last = self.dirty.lock().last;
        self.told.compare_exchange(UNTOLD, last, Ordering::Relaxed, Ordering::Relaxed).ok();
    }

    /// Whether the loss of the link concerns a share: it was there before a flush failed for it.
    pub(super) fn concerns(&self, share: u64) -> bool {
        share <= self.told.load(Ordering::Relaxed)
    }

    /// Closes the account of a link that ends, broken or not.
    pub(super) fn close(&self, broken: bool) {
        let mut book = self.dirty.lock();
        book.links.remove(&self.number);
        if broken && !self.owes_nothing() {
            let told = self.told.load(Ordering::Relaxed);
            let (link, until, told) = (self.number, book.last.min(told), told != UNTOLD);
            if book.shares.is_empty() {
                book.untold |= !told;
            } else {
                book.gone.push(Gone { link, until, told });
            }
        }
    }
}
