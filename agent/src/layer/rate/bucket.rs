//! A bucket of tokens: a bit is a token, and they come at a rate.

use std::{fs, io, path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::units::parse_size;

/// How often a file is looked at, at most: while requests come.
const STALE: Duration = Duration::from_millis(100);

/// Where a rate comes from.
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    /// Bits per second; 0: no limit.
    pub(super) rate: u64,
    /// Has a rate in its first line, whenever it is there.
    pub(super) file: Option<PathBuf>,
}

impl Source {
    /// It may limit something, now or later.
    pub(super) fn limits(&self) -> bool {
        self.rate > 0 || self.file.is_some()
    }
}

/// Saved up in any case: timers come late by a tick, and that time is not lost.
const TICKS: Duration = Duration::from_millis(10);
/// Longest sleep where a file may change the rate.
const NAP: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Bucket {
    source: Source,
    /// Most that may be saved up, in time.
    burst: Duration,
    /// When all that was taken has come in: before now by what is saved up, after it by what is
    /// owed.
    even: Instant,
    /// When the file was read; `None`: not yet.
    read: Option<Instant>,
}

impl Bucket {
    /// Full.
    pub(super) fn new(source: &Source, burst: Duration) -> Self {
        let now = Instant::now();
        let burst = burst.max(TICKS);
        // A clock that has run for less than the burst cannot say it; then less is saved up.
        let even = now.checked_sub(burst).unwrap_or(now);
        Self { source: source.clone(), burst, even, read: None }
    }

    pub(super) fn rate(&self) -> u64 {
        self.source.rate
    }

    /// Reads the file again if that was some time ago. One that is not there or has no rate in it
    /// changes nothing.
    pub(super) async fn refresh(&mut self) {
        let Some(file) = &self.source.file else { return };
        let now = Instant::now();
        if self.read.is_some_and(|read| now - read < STALE) {
            return;
        }
        let path = file.clone();
        let text = tokio::task::spawn_blocking(move || fs::read_to_string(path)).await;
        self.read = Some(Instant::now());
        let text = match text {
            Ok(Ok(text)) => text,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return,
            Ok(Err(error)) => {
                return tracing::debug!("filter rate: cannot read {}: {error}", file.display());
            }
            Err(_) => return,
        };
        match parse_size(text.lines().next().unwrap_or_default()) {
            Ok(rate) => self.adjust(rate),
            Err(error) => {
                tracing::debug!("filter rate: in {}: {error}", file.display());
            }
        }
    }

    /// From now on at this rate. What is saved up or owed stays the same in bits.
    fn adjust(&mut self, rate: u64) {
        let old = std::mem::replace(&mut self.source.rate, rate);
        if old == rate {
            return;
        }
        tracing::debug!("filter rate: adjusted from {old} to {rate}");
        let now = Instant::now();
        if old == 0 || rate == 0 {
            self.even = now;
            return;
        }
        let (saved, owed) =
            (now.saturating_duration_since(self.even), self.even.saturating_duration_since(now));
        self.even = now + scale(owed, old, rate);
        self.even = self.even.checked_sub(scale(saved, old, rate)).unwrap_or(now);
    }

    /// Takes so many bits, and waits until they have come in. What is taken stays taken if it is
    /// dropped meanwhile.
    pub(super) async fn take(&mut self, bits: u64) {
        if self.source.rate == 0 {
            return;
        }
        let now = Instant::now();
        let full = now.checked_sub(self.burst).unwrap_or(self.even);
        let need = u128::from(bits) * 1_000_000_000 / u128::from(self.source.rate);
        let need = Duration::from_nanos(u64::try_from(need).unwrap_or(u64::MAX));
        self.even = self.even.max(full).checked_add(need).unwrap_or(self.even);
        let mut now = now;
        while self.even > now {
            // A new rate is not slept through.
            let wake = self.source.file.as_ref().map_or(self.even, |_| self.even.min(now + NAP));
            sleep_until(wake).await;
            self.refresh().await;
            now = Instant::now();
        }
    }
}

/// The same bits at another rate.
fn scale(time: Duration, old: u64, rate: u64) -> Duration {
    let nanoseconds = time.as_nanos().saturating_mul(old.into()) / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
