//! Tells all threads of a copy to stop: a flag, and a descriptor that wakes every poll.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Raised once and never lowered.
#[derive(Debug)]
pub(super) struct Halt {
    raised: AtomicBool,
    /// Hung up when raised. Nothing is read from it.
    reader: PipeReader,
    writer: Mutex<Option<PipeWriter>>,
}

impl Halt {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { raised: AtomicBool::new(false), reader, writer: Mutex::new(Some(writer)) })
    }

    pub(super) fn raise(&self) {
        self.raised.store(true, Ordering::Relaxed);
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
}

impl AsFd for Halt {
    /// Hangs up when raised.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
