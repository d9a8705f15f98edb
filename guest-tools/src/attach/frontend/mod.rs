//! The kernel's end: takes requests and sends answers, without blocking. The kernel is trusted, but a
//! request that makes no sense ends the frontend with an error; nothing is guessed. `relay` owns the
//! frontends. They know nothing of the server.

mod socket;
mod ublk;

use std::{fmt::Debug, io, os::fd::AsFd};

use nbd::{
    Violation,
    wire::{Errno, Request},
};
use nix::poll::PollFlags;

pub(super) use self::{socket::Socket, ublk::Ublk};

/// The most bytes of payload buffers that are kept for reuse.
const SPARE: usize = 8 << 20;

/// A request from the kernel.
#[derive(Debug)]
pub(super) struct Asked {
    /// Its cookie is assigned by the frontend.
    pub(super) request: Request,
    /// The payload of a write.
    pub(super) bytes: Vec<u8>,
}

/// The result of `Frontend::next`.
#[derive(Debug)]
pub(super) enum Next {
    Asked(Asked),
    /// No request is waiting now.
    Nothing,
    /// The kernel has disconnected.
    End,
}

/// A channel by which the kernel sends requests.
pub(super) trait Frontend: AsFd + Debug + Send {
    /// Called first, on the thread that uses the frontend.
    fn begin(&mut self) -> Result<(), FrontendError> {
        Ok(())
    }

    /// The poll(2) events to wait for. `accepts`: whether requests are wanted.
    fn interest(&self, accepts: bool) -> PollFlags;

    /// Called when the descriptor is readable.
    fn wake(&mut self) -> Result<(), FrontendError>;

    /// Returns the next complete request.
    fn next(&mut self) -> Result<Next, FrontendError>;

    /// Returns an empty buffer or one that was used before, of any length and with any content.
    fn room(&mut self) -> Vec<u8>;

    /// Queues an answer. `payload` is the data of a successful read.
    fn answer(&mut self, cookie: u64, error: Errno, payload: Vec<u8>) -> Result<(), FrontendError>;

    /// Sends the queued answers, as far as there is room for them.
    fn send(&mut self) -> Result<(), FrontendError>;

    /// Called when the other end is closed: nobody waits for answers.
    fn end(&mut self);

    /// Whether the kernel has disconnected or the frontend has failed.
    fn has_ended(&self) -> bool;
}

/// Why a frontend cannot continue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrontendError {
    #[error("the kernel's socket failed")]
    Socket(#[source] io::Error),
    #[error("the kernel sent bytes that are no request")]
    Violation(#[from] Violation),
    #[error("the kernel asked to write {0} bytes at once, more than its driver ever does")]
    TooLong(u64),
    #[error("cannot {what} of the ublk driver")]
    Driver { what: &'static str, source: io::Error },
}

/// Payload buffers for reuse. Allocating and zeroing a large buffer takes longer than filling it. The old
/// bytes are still in them.
#[derive(Debug, Default)]
struct Spares {
    buffers: Vec<Vec<u8>>,
    /// Their capacity together, in bytes.
    held: usize,
}

impl Spares {
    /// Takes back a buffer that is no longer needed.
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
