//! Requests that complete without a thread: reads that the page cache lacks, and reads and writes of whole blocks past
//! the page cache.
//!
//! No request fails here. A request that moves fewer bytes than it asked for is executed again by a thread, which finds
//! out why.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, atomic::Ordering},
};

use super::{Inner, MISSED, Opened, UNLOOKED, WINDOW, direct::aligned};
use crate::{
    Answer, Data, Op, Pages, Waiter,
    ranges::length,
    ring, room,
    sys::ring::{Then, Transfer},
};

/// Longest read, in bytes, of a file that may have holes. For a longer read holes are looked for, and not read.
const BLIND: u64 = 256 << 10;

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Inner {
    /// See `Disk::begin`.
    pub(super) fn begin(self: &Arc<Self>, op: &mut Op<'_>, waiter: Box<dyn Waiter>) {
        match op {
            Op::Read { at, len } => self.begin_read(*at, u64::from(*len), waiter),
            Op::Write { at, data: Data::Pages(pages), fua } => {
                let pages = std::mem::take(*pages);
                self.begin_write(*at, pages, *fua, waiter);
            }
            _ => waiter.blocks(op.take_pages()),
        }
    }

    fn begin_read(self: &Arc<Self>, at: u64, len: u64, waiter: Box<dyn Waiter>) {
        let opened = &self.held().opened;
        let most = if opened.may_have_holes() { BLIND } else { WINDOW };
        let asked = at..at + len;
        let range = match &opened.direct {
            Some(direct) => direct.around(&asked),
            None => asked.clone(),
        };
        let past = opened.direct.as_ref().is_some_and(|direct| direct.has_tail_in(&range));
        let buffer = match &opened.direct {
            _ if len > most || past => None,
            Some(_) => aligned(length(&range)).ok(),
            None => room(length(&range)).ok().map(|bytes| (bytes, 0)),
        };
        let direct = opened.direct.is_some();
        let Some((bytes, skip)) = buffer else { return waiter.blocks(Pages::default()) };
        let whole = length(&range);
        // The bytes before and after the requested range.
        let (before, behind) =
            (length(&(range.start..asked.start)), length(&(asked.end..range.end)));
        let then = move |moved: io::Result<usize>, transfer| match (moved, transfer) {
            (Ok(n), Transfer::Read { mut bytes, .. }) if n == whole => {
                let mut answer = Answer::default();
                bytes.truncate(bytes.len() - behind);
                answer.push_scanned(asked.start, bytes, skip + before);
                waiter.done(answer);
            }
            _ => waiter.blocks(Pages::default()),
        };
        // Set here and not where the page cache had nothing: under a layer that has threads execute its reads, each
        // read has to try the page cache.
        if self.unlooked.load(Ordering::Relaxed) == MISSED {
            self.unlooked.store(UNLOOKED, Ordering::Relaxed);
        }
        let transfer = Transfer::Read { bytes, len: whole, direct };
        self.push(range.start, transfer, Box::new(then));
    }

    fn begin_write(
        self: &Arc<Self>,
        at: u64,
        pages: Pages,
        durable: bool,
        waiter: Box<dyn Waiter>,
    ) {
        let opened = &self.held().opened;
        let (range, len) = (at..at + pages.len() as u64, pages.len());
        let may = opened
            .direct
            .as_ref()
            .is_some_and(|direct| direct.is_whole(&range) && !direct.has_tail_in(&range));
        let together =
            if may && !opened.info.read_only { opened.edges.try_together() } else { None };
        let Some(together) = together else { return waiter.blocks(pages) };
        let inner = Arc::clone(self);
        let then = move |moved: io::Result<usize>, transfer| {
            let all = matches!(moved, Ok(n) if n == len);
            if !(all && durable) {
                // Noted before it is acknowledged, also if only a part was done.
                inner.held().member.wrote();
            }
            drop(together);
            match transfer {
                _ if all => waiter.done(Answer::default()),
                Transfer::Write { pages, .. } => waiter.blocks(pages),
                Transfer::Read { .. } => waiter.blocks(Pages::default()),
            }
        };
        self.push(at, Transfer::Write { pages, durable }, Box::new(then));
    }

    fn push(self: &Arc<Self>, at: u64, transfer: Transfer, then: Then) {
        let file = Arc::clone(&self.held().opened);
        if let Err((transfer, then)) = ring::push(file, at, transfer, then) {
            // Treated as if no byte had been moved.
            then(Ok(0), transfer);
        }
    }
}
