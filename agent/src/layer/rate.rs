//! Limits the bits per second of reads and of writes: nbdkit-rate-filter(1).
//!
//! The requests of one connection go one after another. Connections that share a rate take turns of a few KiB, so a
//! client with many large requests in flight gets no more than a client with one small request.

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
        Key::once("rate", "BITS", "Bits per second of all connections together"),
        Key::once("connection-rate", "BITS", "Bits per second of each connection"),
        Key::once("rate-file", "PATH", "File with the rate of all; read again when it changes"),
        Key::once(
            "connection-rate-file",
            "PATH",
            "File with the rate of each; read again when it changes",
        ),
        Key::once(
            "burstiness",
            "SECONDS",
            "Seconds of the rate that an idle client saves up [default: 2]",
        ),
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

/// The tokens of this time may be saved up while idle.
const BURST: Duration = Duration::from_secs(2);
/// Bits that a connection takes of a shared rate per turn: 4 KiB, so that a client with small requests loses nothing to
/// a client with large ones.
const QUANTUM: u64 = 4096 * 8;
/// Turns per second. At high rates a turn is longer than `QUANTUM`.
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

/// A bucket for reads and a bucket for writes.
#[derive(Debug)]
struct Both([Mutex<Bucket>; 2]);

impl Both {
    fn new(source: &Source, burst: Duration) -> Self {
        Self([(); 2].map(|()| Mutex::new(Bucket::new(source, burst))))
    }
}

/// The layer of one connection.
#[derive(Debug)]
struct Rate {
    below: Arc<dyn Disk>,
    all: Arc<Both>,
    /// The connection's own rate. A request holds the lock until it may go, so that requests follow one another.
    own: [Mutex<Bucket>; 2],
    /// Charged for reading the files.
    tenant: Arc<Tenant>,
}

impl Rate {
    /// Waits until a request of `bits` bits may go. tokio's mutexes are fair: the first to wait is the first to lock.
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
            // Other requests carry no data.
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
