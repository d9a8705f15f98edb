//! A token bucket. A token is one bit, and tokens come in at a rate.

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

/// The file is looked at no more often than this, and only while requests come.
const STALE: Duration = Duration::from_millis(100);

/// Where a rate comes from.
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    /// Bits per second; 0: no limit.
    pub(super) rate: u64,
    /// The rate is in the first line of this file, while it exists.
    pub(super) file: Option<PathBuf>,
}

impl Source {
    /// Whether there is a limit, now or later.
    pub(super) fn limits(&self) -> bool {
        self.rate > 0 || self.file.is_some()
    }
}

/// Saved up in any case, because timers fire up to a tick late.
const TICKS: Duration = Duration::from_millis(10);
/// Longest sleep where a file may change the rate.
const NAP: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Bucket {
    source: Source,
    /// Most that may be saved up, in time.
    burst: Duration,
    /// When all tokens that were taken have come in. Before now: the difference is saved up. After now: it is owed.
    even: Instant,
    /// When the file was read; `None`: not yet.
    read: Option<Instant>,
    /// The file as it is being read.
    reading: Option<Reading>,
}

type Reading = oneshot::Receiver<Option<io::Result<String>>>;

impl Bucket {
    /// A full bucket.
    pub(super) fn new(source: &Source, burst: Duration) -> Self {
        let now = Instant::now();
        let burst = burst.max(TICKS);
        // Less is saved up if the clock has run for less than the burst.
        let even = now.checked_sub(burst).unwrap_or(now);
        Self { source: source.clone(), burst, even, read: None, reading: None }
    }

    pub(super) fn rate(&self) -> u64 {
        self.source.rate
    }

    /// Reads the file again if the last time was a while ago. A file that is missing or has no rate in it changes
    /// nothing. This waits for the file only a moment, because other connections may wait for this bucket and the tenant
    /// that is charged for reading may have much to do.
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

    /// Changes the rate. The tokens that are saved up or owed stay the same.
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

    /// Takes `bits` tokens, and waits until they have come in. They stay taken if the future is dropped.
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
            // Wake up in between, because the rate may change.
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

/// Starts to read a file.
fn read(tenant: &Arc<Tenant>, file: &Path) -> Reading {
    let (tell, told) = oneshot::channel();
    let (tenant, file) = (Arc::clone(tenant), file.to_owned());
    tokio::spawn(async move {
        // The bucket may have been dropped.
        tell.send(tenant.run(move || fs::read_to_string(file)).await).ok();
    });
    told
}
