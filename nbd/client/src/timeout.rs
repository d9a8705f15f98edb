//! How long a server may owe an answer before it counts as gone. A `Timeout` is a value that the
//! caller passes to the functions that wait.
//!
//! An answer in the negotiation, and a TLS handshake, must be complete within the timeout. While
//! requests are in flight, one must be answered within it, or `LEAST` bytes must move on the socket
//! in either direction. So a slow path does not count as dead, but a server that sends one byte per
//! second does. Inside TLS the bytes of the socket count, as in plain text, except for the bytes of
//! records without content.

use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};

use nix::poll::PollTimeout;

/// How many bytes count as a sign of life.
const LEAST: u64 = 4096;

/// How long a server may owe an answer.
///
/// ```
/// use std::time::Duration;
/// use nbd_client::timeout::Timeout;
///
/// let timeout = Timeout::new(Duration::from_secs(5)).set_by("--timeout");
/// assert_eq!(timeout.expired().to_string(), "no answer in 5s (--timeout)");
/// assert_eq!(Timeout::new(Duration::ZERO).limit(), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    limit: Duration,
    /// The option that sets it, for messages.
    option: Option<&'static str>,
}

impl Default for Timeout {
    /// One minute.
    fn default() -> Self {
        Self::new(Duration::from_mins(1))
    }
}

impl Timeout {
    /// A timeout; zero means no limit.
    pub const fn new(limit: Duration) -> Self {
        Self { limit, option: None }
    }

    /// Names the option of the program that sets this timeout, for messages.
    pub const fn set_by(self, option: &'static str) -> Self {
        Self { option: Some(option), ..self }
    }

    /// The limit; `None` means no limit.
    pub fn limit(self) -> Option<Duration> {
        Some(self.limit).filter(|limit| !limit.is_zero())
    }

    /// When an answer that is awaited from now on is late; `None`: never.
    pub fn deadline(self) -> Option<Instant> {
        Instant::now().checked_add(self.limit()?)
    }

    /// The error for a late answer, of kind `TimedOut`.
    pub fn expired(self) -> io::Error {
        let option = self.option.map(|option| format!(" ({option})")).unwrap_or_default();
        io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {:?}{option}", self.limit))
    }
}

/// Converts to poll(2)'s milliseconds, rounded up, so that the time has passed when poll returns.
/// `None`: no limit.
pub fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    let whole = |left: Duration| left.as_nanos().div_ceil(1_000_000);
    left.map_or(PollTimeout::NONE, |left| {
        i32::try_from(whole(left))
            .ok()
            .and_then(|ms| ms.try_into().ok())
            .unwrap_or(PollTimeout::MAX)
    })
}

/// The signs of life of a server that owes an answer. The time counts from when this end begins to
/// wait, because what this end does before is not the server's delay.
#[derive(Debug)]
pub(crate) struct Pulse {
    timeout: Timeout,
    waiting: Cell<Option<Instant>>,
    /// Bytes since the last beat.
    moved: u64,
    /// The last sign of life, or when the server began to owe an answer.
    heard: Instant,
}

impl Pulse {
    /// The pulse of a server that owes nothing yet.
    pub(crate) fn new(timeout: Timeout) -> Self {
        Self { timeout, waiting: Cell::new(None), moved: 0, heard: Instant::now() }
    }

    pub(crate) const fn timeout(&self) -> Timeout {
        self.timeout
    }

    /// Called when the server begins to owe an answer.
    pub(crate) fn begin(&mut self) {
        self.moved = 0;
        self.waiting.set(None);
        self.heard = Instant::now();
    }

    /// Called when the server has answered.
    pub(crate) fn beat(&mut self) {
        self.begin();
    }

    /// The last sign of life, or when the server began to owe an answer.
    pub(crate) const fn heard(&self) -> Instant {
        self.heard
    }

    /// Called when bytes have moved.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
        if self.moved >= LEAST {
            self.beat();
        }
    }

    /// How long the silence may continue, for a caller that waits from now on.
    pub(crate) fn left(&self) -> Option<Duration> {
        let limit = self.timeout.limit()?;
        let since = self.waiting.get().unwrap_or_else(Instant::now);
        self.waiting.set(Some(since));
        Some(limit.saturating_sub(since.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_bytes_are_no_sign_of_life_and_many_are() {
        let mut pulse = Pulse::new(Timeout::default());
        pulse.left();
        let since = pulse.waiting.get();
        assert!(since.is_some());
        pulse.moved(4095);
        assert_eq!(pulse.waiting.get(), since);
        pulse.moved(1);
        assert_eq!((pulse.waiting.get(), pulse.moved), (None, 0));
    }
}
