//! Reads that the page cache can answer, on a thread that serves other connections. A look is a read from the page
//! cache that does not wait.

use std::sync::atomic::Ordering;

use super::{Inner, Opened, WINDOW};
use crate::{
    Answer, Turn, room,
    sys::file::{self as sys, Wait},
};

/// Number of reads that are begun without a look, after a look that the page cache could not answer.
const UNLOOKED: u32 = 16;
/// In place of that number: the last look found nothing, and the read was not begun yet.
const MISSED: u32 = u32::MAX;

impl Inner {
    /// See `Opened::read_cached`. After a look that found nothing, the next reads are begun without one (`begin_read`):
    /// the ring also finds cached bytes, and a look for nothing costs half as much as a read.
    pub(super) fn read_cached(&self, at: u64, len: u32, answer: &mut Answer) -> Turn {
        let opened = &self.held().opened;
        // A look for bytes that are not cached starts a read, which waits if the device's queue is full.
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
            self.share.started(len.into());
        } else {
            self.unlooked.store(0, Ordering::Relaxed);
        }
        turn
    }

    /// Begins the next reads without a look, if the last look found nothing. Called when a read is begun, and not when
    /// the look fails: below a layer whose reads are executed by threads, each read needs a look.
    pub(super) fn stop_looking(&self) {
        if self.unlooked.load(Ordering::Relaxed) == MISSED {
            self.unlooked.store(UNLOOKED, Ordering::Relaxed);
        }
    }
}

impl Opened {
    /// Answers a read on a thread that may block, if the page cache has the whole range: it takes no place in the
    /// device's queue then.
    pub(super) fn read_if_cached(&self, at: u64, len: u32, answer: &mut Answer) -> bool {
        let may = u64::from(len) <= WINDOW && self.direct.is_none();
        may && self.read_cached(at, len, answer) == Turn::Done
    }

    /// Answers the read if the page cache has the whole range. Otherwise changes nothing.
    fn read_cached(&self, at: u64, len: u32, answer: &mut Answer) -> Turn {
        let len = len as usize;
        let Ok(mut bytes) = room(len) else { return Turn::WouldBlock };
        let read = || sys::read(&self.file, &mut bytes, len, at, Wait::Never);
        // After a failure or a short read, the thread that may block finds the cause.
        if matches!(self.can.read_nowait.with(read), Ok(Some(n)) if n == len) {
            answer.push_scanned(at, bytes, 0);
            return Turn::Done;
        }
        Turn::WouldBlock
    }
}
