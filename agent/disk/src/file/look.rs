//! Reads that the page cache can answer, on a thread that serves other connections.

use std::sync::atomic::Ordering;

use super::{Inner, Opened, WINDOW};
use crate::{
    Answer, Turn, room,
    sys::file::{self as sys, Wait},
};

/// Reads that are not looked for after one that the page cache did not have.
const UNLOOKED: u32 = 16;
/// In place of their number: the last look found nothing, and the read was not begun yet.
const MISSED: u32 = u32::MAX;

impl Inner {
    /// See `Opened::read_cached`. After a read that was begun the next ones are not looked for (`begin_read`): the
    /// ring finds what is cached too, and one look for nothing costs as much as half a read.
    pub(super) fn read_cached(&self, at: u64, len: u32, answer: &mut Answer) -> Turn {
        let opened = &self.held().opened;
        // A look for what is not there starts a read, which waits where the device's queue is full.
        if u64::from(len) > WINDOW || opened.direct.is_some() || self.share.is_full() {
            return Turn::WouldBlock;
        }
        let unlooked = self.unlooked.load(Ordering::Relaxed);
        if unlooked > 0 && unlooked != MISSED {
            self.unlooked.store(unlooked - 1, Ordering::Relaxed);
            return Turn::WouldBlock;
        }
        let turn = opened.read_cached(at, len, answer);
        if turn == Turn::WouldBlock {
            self.unlooked.store(MISSED, Ordering::Relaxed);
            self.missed.fetch_add(1, Ordering::Relaxed);
            self.share.count(1);
        } else {
            self.unlooked.store(0, Ordering::Relaxed);
        }
        turn
    }

    /// A read begins that may have been looked for: from here on it is counted by whoever does it.
    pub(super) fn take_missed(&self) {
        let missed = self
            .missed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |missed| missed.checked_sub(1));
        if missed.is_ok() {
            self.share.uncount(1);
        }
    }

    /// The next reads are begun without a look for them, if the last look found nothing. Asked where a read is begun,
    /// and not where the look came to nothing: under a layer that has reads performed by threads, each is to be
    /// looked for.
    pub(super) fn stop_looking(&self) {
        if self.unlooked.load(Ordering::Relaxed) == MISSED {
            self.unlooked.store(UNLOOKED, Ordering::Relaxed);
        }
    }
}

impl Opened {
    /// A range that the page cache has is answered; anything else changes nothing.
    fn read_cached(&self, at: u64, len: u32, answer: &mut Answer) -> Turn {
        let len = len as usize;
        let Ok(mut bytes) = room(len) else { return Turn::WouldBlock };
        let read = || sys::read(&self.file, &mut bytes, len, at, Wait::Never);
        // Failures and short reads: the one who may wait finds out what is the matter.
        if matches!(self.can.read_nowait.with(read), Ok(Some(n)) if n == len) {
            answer.push_scanned(at, bytes, 0);
            return Turn::Done;
        }
        Turn::WouldBlock
    }
}
