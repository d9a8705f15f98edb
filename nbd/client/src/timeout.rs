//! How long a server may take to say or take in anything before it counts as gone: one rule for the
//! whole program, set once by `main`. `dial`, `greet` and whatever waits for a `link` keep to it.
//!
//! An answer to a question of the negotiation, and a handshake of TLS, has to be whole by then. Of
//! requests under way, one has to be answered, or `LEAST` bytes to have moved on the socket in either
//! direction: a slow way is no dead one, and a server that sends a byte a second is. Inside TLS the
//! bytes of the socket count, as in plain text; those of records without content do not.

use std::{
    cell::Cell,
    io,
    sync::OnceLock,
    time::{Duration, Instant},
};

use nix::poll::PollTimeout;

/// If nothing is said.
const USUAL: Duration = Duration::from_mins(1);
/// Bytes that count as a sign of life.
const LEAST: u64 = 4096;

static LIMIT: OnceLock<Duration> = OnceLock::new();

/// Says how long, before anybody is connected to. Zero is for ever.
pub fn set(limit: Duration) {
    // It is said once.
    LIMIT.set(limit).ok();
}

/// How long; `None` is for ever.
pub fn limit() -> Option<Duration> {
    Some(*LIMIT.get_or_init(|| USUAL)).filter(|limit| !limit.is_zero())
}

/// That it took longer.
pub fn exhausted() -> io::Error {
    let limit = limit().unwrap_or_default();
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {limit:?} (--timeout)"))
}

/// What a socket with a time limit says, in those words.
pub fn told(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { exhausted() } else { error }
}

/// For poll(2), which counts milliseconds: rounded up, so that the time is over when it returns. What
/// is left of `None` is for ever.
pub fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    let whole = |left: Duration| left.as_nanos().div_ceil(1_000_000);
    left.map_or(PollTimeout::NONE, |left| {
        i32::try_from(whole(left))
            .ok()
            .and_then(|ms| ms.try_into().ok())
            .unwrap_or(PollTimeout::MAX)
    })
}

/// The signs of life of one server that owes something. Time counts from where this end begins to
/// wait: what it does meanwhile is not the server's delay.
#[derive(Debug, Default)]
pub struct Pulse {
    waiting: Cell<Option<Instant>>,
    /// Bytes since the last beat.
    moved: u64,
    /// There was one since this was last asked.
    beaten: bool,
}

impl Pulse {
    /// It begins to owe.
    pub fn begin(&mut self) {
        *self = Self { beaten: self.beaten, ..Self::default() };
    }

    /// It has answered.
    pub fn beat(&mut self) {
        *self = Self { beaten: true, ..Self::default() };
    }

    /// Whether there was a sign of life since this was asked before.
    pub const fn take_beaten(&mut self) -> bool {
        std::mem::replace(&mut self.beaten, false)
    }

    /// Bytes have come, or gone.
    pub fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
        if self.moved >= LEAST {
            self.beat();
        }
    }

    /// How long it may go on like this, for a caller who waits now.
    pub fn left(&self) -> Option<Duration> {
        let limit = limit()?;
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
        let mut pulse = Pulse::default();
        pulse.left();
        let since = pulse.waiting.get();
        assert!(since.is_some());
        pulse.moved(4095);
        assert_eq!(pulse.waiting.get(), since);
        pulse.moved(1);
        assert_eq!((pulse.waiting.get(), pulse.moved), (None, 0));
    }
}
