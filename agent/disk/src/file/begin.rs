//! Requests that complete without a thread: reads that the page cache lacks, and reads and writes of whole blocks past
//! the page cache.
//!
//! No request fails here. If a request moves fewer bytes than it asked for, a thread executes it again and gets the
//! error.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use super::{Inner, Opened, WINDOW, direct::aligned};
use crate::{
    Answer, Data, Op, Pages, Waiter,
    ranges::length,
    ring, room,
    sys::ring::{Then, Transfer},
};

/// Maximum length in bytes of a read from a file that may have holes. For a longer read, holes are looked up instead of
/// read.
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
        let Some(place) = self.share.place(len) else { return waiter.blocks(Pages::default()) };
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
        let then = move |moved: io::Result<usize>, transfer| {
            drop(place);
            match (moved, transfer) {
                (Ok(n), Transfer::Read { mut bytes, .. }) if n == whole => {
                    let mut answer = Answer::default();
                    bytes.truncate(bytes.len() - behind);
                    answer.push_scanned(asked.start, bytes, skip + before);
                    waiter.done(answer);
                }
                _ => waiter.blocks(Pages::default()),
            }
        };
        self.stop_looking();
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
        let Some(place) = self.share.place(len as u64) else { return waiter.blocks(pages) };
        let inner = Arc::clone(self);
        let begun = durable.then(|| inner.held().member.begin_durable());
        let then = move |moved: io::Result<usize>, transfer| {
            drop(place);
            let member = &inner.held().member;
            let all = matches!(moved, Ok(n) if n == len);
            // Noted before the write is acknowledged or repeated, even if only a part of it was done.
            let all = if let Some(begun) = begun {
                member.end_durable(begun, moved.err()) && all
            } else {
                member.wrote();
                all
            };
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
