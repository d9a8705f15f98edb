//! How long a request may take to arrive, once its first byte is there.
//!
//! A client that has begun a request holds memory of its tenant: a receive buffer, and the pages of a large write. So
//! the rest has to arrive, and not just a byte now and then. The minimum is 64 KiB of a payload per minute. The whole
//! request has to arrive within one minute plus one second per MiB of its payload. Time in which the agent does not
//! read (it has no room, or no memory) does not count.

use std::time::Duration;

use tokio::time::Instant;

/// A request that makes no progress for this long ends its connection.
pub(super) const STALLED: Duration = Duration::from_mins(1);
/// Bytes of a payload that count as progress.
const PROGRESS: u64 = 64 * 1024;
/// The minimum rate of a payload in bytes per second, on average and after the first minute.
const SLOWEST: u64 = 1 << 20;

/// A request that has arrived in part.
#[derive(Debug)]
pub(super) struct Arriving {
    /// Requests of this connection before it.
    number: u64,
    /// Bytes of its payload that were missing at the last progress; 0 before the payload begins.
    missing: u64,
    /// The deadline for progress.
    progress: Instant,
    /// The deadline for the whole request.
    whole: Instant,
}

impl Arriving {
    fn new(number: u64, missing: u64, now: Instant) -> Self {
        let whole = now + STALLED + Duration::from_secs(missing / SLOWEST);
        Self { number, missing, progress: now + STALLED, whole }
    }

    /// The time at which the connection ends. `number` counts the requests before this one, `missing` is the missing
    /// part of its payload in bytes. `this` is the state of this request, or of an earlier one.
    pub(super) fn due(this: &mut Option<Self>, number: u64, missing: u64) -> Instant {
        let now = Instant::now();
        let known = this.take().filter(|this| this.number == number && this.missing >= missing);
        let mut arriving = known.unwrap_or_else(|| Self::new(number, missing, now));
        if arriving.missing - missing >= PROGRESS {
            arriving.missing = missing;
            arriving.progress = now + STALLED;
        }
        let due = arriving.progress.min(arriving.whole);
        *this = Some(arriving);
        due
    }

    /// Extends the deadlines by `time`, in which the agent did not read.
    pub(super) fn pause(&mut self, time: Duration) {
        self.progress += time;
        self.whole += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_is_read_does_not_count() {
        let (mut arriving, second) = (None, Duration::from_secs(1));
        let start = Instant::now();
        assert_eq!(Arriving::due(&mut arriving, 0, 3 * SLOWEST), start + STALLED);
        arriving.as_mut().unwrap().pause(100 * second);
        assert_eq!(Arriving::due(&mut arriving, 0, 3 * SLOWEST), start + STALLED + 100 * second);
        // Progress counts from now on, but does not extend the deadline of the whole request.
        tokio::time::advance(30 * second).await;
        let whole = start + STALLED + 103 * second;
        assert_eq!(Arriving::due(&mut arriving, 0, 2 * SLOWEST), start + STALLED + 30 * second);
        tokio::time::advance(120 * second).await;
        assert_eq!(Arriving::due(&mut arriving, 0, SLOWEST), whole);
        // Another request begins anew.
        assert_eq!(Arriving::due(&mut arriving, 1, 0), Instant::now() + STALLED);
    }
}
