//! Log lines about the VMs of one path. Each names the path. Their rate is bounded, so a VMM or a guest that repeats
//! a mistake does not fill the log.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Most lines of a path at once.
const BURST: u32 = 30;
/// The time after which one more line is allowed.
const EACH: Duration = Duration::from_secs(1);

/// A path's log.
#[derive(Debug)]
pub(crate) struct Log {
    path: Arc<Path>,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// The number of lines that are allowed now.
    lines: u32,
    /// When the last one was added to `lines`.
    since: Instant,
    /// The number of lines that were suppressed and not reported yet.
    left_out: u64,
}

impl Bucket {
    /// If a line is allowed, the number of lines that were suppressed before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let whole = now.saturating_duration_since(self.since).as_secs() / EACH.as_secs();
        if whole > 0 {
            let more = u32::try_from(whole).unwrap_or(BURST);
            self.lines = self.lines.saturating_add(more).min(BURST);
            self.since = now;
        }
        if self.lines == 0 {
            self.left_out += 1;
            return None;
        }
        self.lines -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Log {
    pub(crate) fn new(path: Arc<Path>) -> Self {
        let bucket = Bucket { lines: BURST, since: Instant::now(), left_out: 0 };
        Self { path, bucket: Mutex::new(bucket) }
    }

    fn may_speak(&self) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left_out) = bucket.take(Instant::now()) else { return false };
        drop(bucket);
        if left_out > 0 {
            let path = self.path.display();
            tracing::warn!("vhost-user:{path}: {left_out} more lines about this VM were left out");
        }
        true
    }

    /// Logs the count of suppressed lines if a line is allowed. Returns false if the count could not be logged yet.
    pub(crate) fn settle(&self) -> bool {
        let bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.left_out == 0 {
            return true;
        }
        drop(bucket);
        self.may_speak()
    }

    pub(crate) fn warn(&self, what: fmt::Arguments<'_>) {
        if self.may_speak() {
            tracing::warn!("vhost-user:{}: {what}", self.path.display());
        }
    }

    pub(crate) fn info(&self, what: fmt::Arguments<'_>) {
        if self.may_speak() {
            tracing::info!("vhost-user:{}: {what}", self.path.display());
        }
    }

    /// Logs a line that is shown with `-v` only. Without `-v` it does not count.
    pub(crate) fn debug(&self, what: fmt::Arguments<'_>) {
        if tracing::enabled!(tracing::Level::DEBUG) && self.may_speak() {
            tracing::debug!("vhost-user:{}: {what}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_bounded_and_counted() {
        let begin = Instant::now();
        let mut bucket = Bucket { lines: BURST, since: begin, left_out: 0 };
        let said = (0..100_000).filter(|_| bucket.take(begin).is_some()).count();
        assert_eq!(said, BURST as usize);
        let later = begin + 2 * EACH;
        assert_eq!(bucket.take(later), Some(100_000 - u64::from(BURST)));
        assert_eq!(bucket.take(later), Some(0));
        assert_eq!(bucket.take(later), None);
        // Without lines the budget fills up again, to its maximum.
        let much_later = begin + 1000 * EACH;
        let said = (0..1000).filter(|_| bucket.take(much_later).is_some()).count();
        assert_eq!(said, BURST as usize);
    }
}
