//! How many lines of the log a tenant may cause: a token bucket, and a count of what it suppressed.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Lines per second, in the long run.
const RATE: u32 = 20;
/// Lines at once.
const BURST: u32 = 200;

/// A tenant's allowance of log lines.
#[derive(Debug)]
pub struct LogLimit(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    suppressed: u64,
}

impl Default for LogLimit {
    fn default() -> Self {
        let bucket = Bucket { tokens: BURST.into(), filled: Instant::now(), suppressed: 0 };
        Self(Mutex::new(bucket))
    }
}

impl LogLimit {
    /// Whether a line may be written now. `Some` says how many were suppressed since the last one that
    /// was written; `None` counts this one as suppressed.
    pub fn line(&self) -> Option<u64> {
        self.line_at(Instant::now())
    }

    fn line_at(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * f64::from(RATE)).min(BURST.into());
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1.0;
        Some(std::mem::take(&mut bucket.suppressed))
    }

    /// Takes the count of suppressed lines, for a last line about them.
    pub fn take_suppressed(&self) -> u64 {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).suppressed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_written_and_a_flood_is_counted() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let written = (0..10_000).filter(|_| limit.line_at(start).is_some()).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(limit.line_at(start + Duration::from_secs(1)), Some(9_800));
        let later = start + Duration::from_secs(2);
        let written = (0..100).filter(|_| limit.line_at(later).is_some()).count();
        assert!((RATE as usize..=2 * RATE as usize).contains(&written), "{written}");
    }
}
