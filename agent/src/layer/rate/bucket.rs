//! A bucket of tokens: a bit is a token, and they come at a rate.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};

use crate::{tenant::Tenant, units::parse_size};

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
    /// The file as it is being read.
    reading: Option<Reading>,
}

type Reading = oneshot::Receiver<Option<io::Result<String>>>;

impl Bucket {
    /// Full.
    pub(super) fn new(source: &Source, burst: Duration) -> Self {
        let now = Instant::now();
        let burst = burst.max(TICKS);
        // A clock that has run for less than the burst cannot say it; then less is saved up.
        let even = now.checked_sub(burst).unwrap_or(now);
        Self { source: source.clone(), burst, even, read: None, reading: None }
    }

    pub(super) fn rate(&self) -> u64 {
        self.source.rate
    }

    /// Reads the file again if that was some time ago. One that is not there or has no rate in it
    /// changes nothing. The file is waited for a moment only: others may wait for this bucket, and the tenant for whom
    /// it is read may have much to do.
    pub(super) async fn refresh(&mut self, tenant: &Arc<Tenant>) {
        let Some(file) = &self.source.file else { return };
        let now = Instant::now();
        if self.read.is_some_and(|read| now - read < STALE) {
            return;
        }
        let (reading, patience) = match &mut self.reading {
            Some(reading) => (reading, Duration::ZERO),
            none => (none.insert(read(tenant, file)), STALE),
        };
        let Ok(text) = timeout(patience, reading).await else { return };
        self.reading = None;
        self.read = Some(Instant::now());
        let text = match text {
            Ok(Some(Ok(text))) => text,
            Ok(Some(Err(error))) if error.kind() != io::ErrorKind::NotFound => {
                return tracing::debug!("filter rate: cannot read {}: {error}", file.display());
            }
            _ => return,
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
    pub(super) async fn take(&mut self, tenant: &Arc<Tenant>, bits: u64) {
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
            self.refresh(tenant).await;
            now = Instant::now();
        }
    }
}

/// The same bits at another rate.
fn scale(time: Duration, old: u64, rate: u64) -> Duration {
    let nanoseconds = time.as_nanos().saturating_mul(old.into()) / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// Begins to read a file.
fn read(tenant: &Arc<Tenant>, file: &Path) -> Reading {
    let (tell, told) = oneshot::channel();
    let (tenant, file) = (Arc::clone(tenant), file.to_owned());
    tokio::spawn(async move {
        // The bucket may be gone.
        tell.send(tenant.run(move || fs::read_to_string(file)).await).ok();
    });
    told
}
