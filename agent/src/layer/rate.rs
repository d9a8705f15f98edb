//! Limits the bits per second of reads and of writes: nbdkit-rate-filter(1).
//!
//! A connection's requests go one after another, and connections that share a rate take turns of a
//! few KiB: who has many large requests in flight gets no more than who has one small one.

mod bucket;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::Mutex;

use self::bucket::{Bucket, Source};
use super::{Entry, absolute};
use crate::{
    params::{Key, ParamError, Params},
    tenant::Tenant,
};
use disk::{Asked, Disk, Layer, Op, Throttle, Verb};

pub(super) const ENTRY: Entry = Entry {
    name: "rate",
    about: "Limit the bits per second",
    keys: &[
        Key::once("rate", "BITS", "Of all connections together, each second"),
        Key::once("connection-rate", "BITS", "Of each connection, each second"),
        Key::once("rate-file", "PATH", "Has the rate of all, and is read again"),
        Key::once("connection-rate-file", "PATH", "Has the rate of each, and is read again"),
        Key::once("burstiness", "SECONDS", "What may be saved up while idle [default: 2]"),
    ],
    build: |params, stack, _| {
        let limits = Limits::parse(params)?;
        if !limits.all.limits() && !limits.each.limits() {
            return Ok(stack);
        }
        let all = Arc::new(Both::new(&limits.all, limits.burst));
        Ok(stack.each(move |below, permit| {
            let tenant = Arc::clone(permit.tenant());
            let own = [(); 2].map(|()| Mutex::new(Bucket::new(&limits.each, limits.burst)));
            Ok(Arc::new(Rate { below, all: Arc::clone(&all), own, tenant }))
        }))
    },
};

/// What comes in within this time may be saved up while idle.
const BURST: Duration = Duration::from_secs(2);
/// What a connection takes of a shared rate before it is another's turn, bits: 4 KiB, so that who
/// sends small requests one by one loses nothing to who sends large ones.
const QUANTUM: u64 = 4096 * 8;
/// So many turns each second are enough: at high rates they are longer.
const TURNS: u64 = 10_000;

#[derive(Debug)]
struct Limits {
    all: Source,
    each: Source,
    burst: Duration,
}

impl Limits {
    fn parse(params: &Params<'_>) -> Result<Self, ParamError> {
        let source = |rate: &'static str, file| {
            let bits = params.size(rate)?;
            if bits == Some(0) {
                return Err(params.wrong(rate, "0", "a rate", "nothing would ever go through"));
            }
            Ok(Source {
                rate: bits.unwrap_or(0),
                file: params.value(file).map(|path| -> PathBuf { absolute(path) }),
            })
        };
        let burst = params.parsed("burstiness", "a number of seconds", |text| {
            text.parse()
                .ok()
                .filter(|seconds: &f64| *seconds >= 0.0)
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .ok_or("write seconds, such as 2 or 0.5")
        })?;
        Ok(Self {
            all: source("rate", "rate-file")?,
            each: source("connection-rate", "connection-rate-file")?,
            burst: burst.unwrap_or(BURST),
        })
    }
}

/// Reads and writes have a bucket each.
#[derive(Debug)]
struct Both([Mutex<Bucket>; 2]);

impl Both {
    fn new(source: &Source, burst: Duration) -> Self {
        Self([(); 2].map(|()| Mutex::new(Bucket::new(source, burst))))
    }
}

/// One connection's.
#[derive(Debug)]
struct Rate {
    below: Arc<dyn Disk>,
    all: Arc<Both>,
    /// Its own rate; a request holds the lock until it may go, so that one follows another.
    own: [Mutex<Bucket>; 2],
    /// Whom reading the files is charged to.
    tenant: Arc<Tenant>,
}

impl Rate {
    /// Waits until a request of so many bits may go. tokio's mutexes are fair: who came first has
    /// it first.
    async fn take(&self, direction: usize, bits: u64) {
        let mut own = self.own[direction].lock().await;
        own.refresh(&self.tenant).await;
        own.take(&self.tenant, bits).await;
        let mut left = bits;
        while left > 0 {
            let mut all = self.all.0[direction].lock().await;
            all.refresh(&self.tenant).await;
            let turn = left.min(QUANTUM.max(all.rate() / TURNS));
            all.take(&self.tenant, turn).await;
            left -= turn;
        }
    }
}

impl Layer for Rate {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn passes(&self, _: &Op<'_>) -> bool {
        true
    }

    fn throttles(&self) -> bool {
        true
    }

    fn throttle(&self, asked: Asked) -> Throttle<'_> {
        let direction = match asked.verb {
            Verb::Read => 0,
            Verb::Write => 1,
            // These send no more than a header.
            _ => return self.below.throttle(asked),
        };
        Box::pin(async move {
            self.take(direction, asked.range.1.saturating_mul(8)).await;
            self.below.throttle(asked).await;
        })
    }
}

#[cfg(test)]
mod tests;
