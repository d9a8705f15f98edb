//! The lines that one path's VMs cause: each names the path, and they are bounded. A VMM or a guest that
//! does the same wrong thing again and again fills no log.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines that a path may cause at once.
const BURST: u32 = 30;
/// A further line is allowed after this time.
const EACH: Duration = Duration::from_secs(1);

/// A path's log.
#[derive(Debug)]
pub(crate) struct Log {
    path: Arc<Path>,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Lines that are allowed now.
    lines: u32,
    /// When the last one was added to `lines`.
    since: Instant,
    /// Lines that were left out and not told of.
    left_out: u64,
}

impl Bucket {
    /// True if a line may be said; with it how many were left out before.
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

    /// Tells of lines that were left out, if a line is allowed; false: there are still some.
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

    /// Shown with `-v` only; takes no line from the budget otherwise.
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
        // Silence fills it again, and no further.
        let much_later = begin + 1000 * EACH;
        let said = (0..1000).filter(|_| bucket.take(much_later).is_some()).count();
        assert_eq!(said, BURST as usize);
    }
}
