//! The kernel's end: requests in, answers out, without waiting. The kernel is trusted with what it says,
//! but what makes no sense ends the frontend with an error and not with a guess. `relay` owns the frontends;
//! nothing here knows the server.

mod socket;
mod ublk;

use std::{fmt::Debug, io, os::fd::AsFd};

use nbd::{
    Violation,
    wire::{Errno, Request},
};
use nix::poll::PollFlags;

pub(super) use self::{socket::Socket, ublk::Ublk};

/// Bytes of payloads that are kept to be used again.
const SPARE: usize = 8 << 20;

/// A request of the kernel.
#[derive(Debug)]
pub(super) struct Asked {
    /// Its cookie is the frontend's own.
    pub(super) request: Request,
    /// What a write brings.
    pub(super) bytes: Vec<u8>,
}

/// What came of a look at a frontend.
#[derive(Debug)]
pub(super) enum Next {
    Asked(Asked),
    /// Nothing more for now.
    Nothing,
    /// The kernel has disconnected.
    End,
}

/// A way by which the kernel asks.
pub(super) trait Frontend: AsFd + Debug + Send {
    /// Before anything else, on the thread that uses it.
    fn begin(&mut self) -> Result<(), FrontendError> {
        Ok(())
    }

    /// What its descriptor is to be waited for; `accepts`: requests are wanted.
    fn interest(&self, accepts: bool) -> PollFlags;

    /// The descriptor is readable.
    fn wake(&mut self) -> Result<(), FrontendError>;

    /// The next whole request.
    fn next(&mut self) -> Result<Next, FrontendError>;

    /// A buffer of some length or none, with any bytes in it.
    fn room(&mut self) -> Vec<u8>;

    /// Queues an answer; `payload` is what a read that succeeded has read.
    fn answer(&mut self, cookie: u64, error: Errno, payload: Vec<u8>) -> Result<(), FrontendError>;

    /// Lets the answers go, as far as there is room for them.
    fn send(&mut self) -> Result<(), FrontendError>;

    /// The other end is closed: there is nobody to answer.
    fn end(&mut self);

    /// The kernel has disconnected, or the frontend has failed.
    fn has_ended(&self) -> bool;
}

/// Why a frontend cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrontendError {
    #[error("the kernel's socket failed")]
    Socket(#[source] io::Error),
    #[error("the kernel sent what is no request")]
    Violation(#[from] Violation),
    #[error("the kernel asked to write {0} bytes at once, more than its driver ever does")]
    TooLong(u64),
    #[error("cannot {what} of the ublk driver")]
    Driver { what: &'static str, source: io::Error },
}

/// Payloads to be used again: to have a large one from the system, and clean, takes longer than to fill
/// it. Their bytes are still in them.
#[derive(Debug, Default)]
struct Spares {
    buffers: Vec<Vec<u8>>,
    /// What they hold together.
    held: usize,
}

impl Spares {
    /// A buffer that is not needed any more.
    fn give_back(&mut self, bytes: Vec<u8>) {
        if bytes.capacity() > 0 && self.held + bytes.capacity() <= SPARE {
            self.held += bytes.capacity();
            self.buffers.push(bytes);
        }
    }

    fn take(&mut self) -> Vec<u8> {
        let bytes = self.buffers.pop().unwrap_or_default();
        self.held -= bytes.capacity();
        bytes
    }
}
