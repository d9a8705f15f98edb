//! Which links have writes that were answered and are not durable.
//!
//! `seat` asks before it flushes, `link` keeps its account here. Links and seats are numbered in the
//! order in which they come, so that an age is a number.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use super::link::Link;

/// The links of one export of the far server, and who has them.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    last: u64,
    links: BTreeMap<u64, Weak<Link>>,
    seats: BTreeSet<u64>,
    /// Links that were lost with writes and are gone: their number, and the last one given by then.
    gone: Vec<(u64, u64)>,
}

impl Book {
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

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a link. It has to be connected already: its age counts from here.
    pub(super) fn enter(
        self: &Arc<Self>,
        make: impl FnOnce(Account) -> io::Result<Link>,
    ) -> io::Result<Arc<Link>> {
        let number = self.lock().number();
        let (written, durable) = (AtomicU64::new(0), AtomicU64::new(0));
        let account = Account { ledger: Arc::clone(self), number, written, durable };
        let link = Arc::new(make(account)?);
        self.lock().links.insert(number, Arc::downgrade(&link));
        Ok(link)
    }

    /// Somebody has a link.
    pub(super) fn sit(&self) -> u64 {
        let mut book = self.lock();
        let number = book.number();
        book.seats.insert(number);
        number
    }

    /// Somebody has gone: losses that concern nobody any more are forgotten.
    pub(super) fn rise(&self, seat: u64) {
        let mut book = self.lock();
        book.seats.remove(&seat);
        let Book { seats, gone, .. } = &mut *book;
        gone.retain(|(_, until)| seats.first().is_some_and(|oldest| oldest <= until));
    }

    /// For a flush of `seat` on `link`.
    pub(super) fn others(&self, seat: u64, link: &Account) -> Others {
        let book = self.lock();
        let older: Vec<_> =
            book.links.range(..link.number).filter_map(|(_, link)| link.upgrade()).collect();
        let concerns = |&&(lost, until): &&(u64, u64)| lost < link.number && seat <= until;
        let gone = book.gone.iter().filter(concerns).map(|(lost, _)| *lost).collect();
        // A link whose last owner this is by now takes the lock when it goes.
        drop(book);
        Others { older, gone }
    }
}

/// What one link owes to its clients.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) ledger: Arc<Ledger>,
    pub(super) number: u64,
    /// Writes that were answered, and how many of them are durable.
    written: AtomicU64,
    durable: AtomicU64,
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
        let mut book = self.ledger.lock();
        book.links.remove(&self.number);
        if broken && !self.owes_nothing() && !book.seats.is_empty() {
            let until = book.last;
            book.gone.push((self.number, until));
        }
    }
}
