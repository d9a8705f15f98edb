//! Delays requests, and the opening and closing of exports: nbdkit-delay-filter(1).

use std::{sync::Arc, time::Duration};

use super::Entry;
use crate::{
    params::{Key, ParamError, Params},
    stack::BuildError,
};
use disk::{
    Answer, Asked, Disk, DiskError, DiskInfo, Kind, Layer, Op, Progress, Throttle, Turn, Verb,
};

pub(super) const ENTRY: Entry = Entry {
    name: "delay",
    about: "Delay requests",
    keys: &[
        Key::once("rdelay", "TIME", "Delay of reads"),
        Key::once("wdelay", "TIME", "Delay of writes, zeroes and trims"),
        Key::once("delay-read", "TIME", "Delay of reads"),
        Key::once("delay-write", "TIME", "Delay of writes alone"),
        Key::once("delay-zero", "TIME", "Delay of zeroes"),
        Key::once("delay-trim", "TIME", "Delay of trims"),
        Key::once("delay-extents", "TIME", "Delay of extent requests"),
        Key::once("delay-cache", "TIME", "Delay of cache requests"),
        Key::once("delay-flush", "TIME", "Delay of flushes"),
        Key::once("delay-fast-zero", "on|off", "off: refuse fast zeroes at once [default: on]"),
        Key::once("delay-open", "TIME", "Delay of opening an export"),
        Key::once("delay-close", "TIME", "Delay of closing, after a client's NBD_CMD_DISC"),
    ],
    build: |params, stack, _| {
        let times = Times::parse(params)?;
        if times.is_zero() {
            // A layer without delays is left out.
            return Ok(stack);
        }
        let around = move |below| -> Arc<dyn Disk> { Arc::new(Delay { below, times }) };
        Ok::<_, BuildError>(if times.open.is_zero() {
            stack.each(move |below, _| Ok(around(below)))
        } else {
            stack.each_later(move |below, _| {
                Box::pin(async move {
                    tokio::time::sleep(times.open).await;
                    Ok(around(below))
                })
            })
        })
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    read: Duration,
    write: Duration,
    zero: Duration,
    trim: Duration,
    extents: Duration,
    cache: Duration,
    flush: Duration,
    open: Duration,
    close: Duration,
    /// Fast zeroes are refused at once.
    no_fast_zero: bool,
}

impl Times {
    fn parse(params: &Params<'_>) -> Result<Self, ParamError> {
        let all_reads = params.duration("rdelay")?;
        let all_writes = params.duration("wdelay")?;
        let time =
            |key, wider: Option<Duration>| Ok(params.duration(key)?.or(wider).unwrap_or_default());
        let zero = time("delay-zero", all_writes)?;
        let fast = params.switch("delay-fast-zero")?.unwrap_or(true);
        Ok(Self {
            read: time("delay-read", all_reads)?,
            write: time("delay-write", all_writes)?,
            zero,
            trim: time("delay-trim", all_writes)?,
            extents: time("delay-extents", None)?,
            cache: time("delay-cache", None)?,
            flush: time("delay-flush", None)?,
            open: time("delay-open", None)?,
            close: time("delay-close", None)?,
            // As in nbdkit: without a delay of zeroes, fast zeroes are not refused.
            no_fast_zero: !fast && !zero.is_zero(),
        })
    }

    fn of(&self, verb: Verb) -> Duration {
        match verb {
            Verb::Read => self.read,
            Verb::Write => self.write,
            Verb::Zero => self.zero,
            Verb::Trim => self.trim,
            Verb::Extents => self.extents,
            Verb::Cache => self.cache,
            Verb::Flush => self.flush,
            Verb::Open => self.open,
        }
    }

    fn is_zero(&self) -> bool {
        !self.throttles() && self.open.is_zero()
    }

    fn throttles(&self) -> bool {
        let Self { read, write, zero, trim, extents, cache, flush, close, .. } = self;
        [read, write, zero, trim, extents, cache, flush, close].iter().any(|time| !time.is_zero())
    }
}

#[derive(Debug)]
struct Delay {
    below: Arc<dyn Disk>,
    times: Times,
}

impl Delay {
    fn check(&self, op: &Op<'_>) -> Result<(), DiskError> {
        if self.times.no_fast_zero && matches!(op, Op::Zero { fast: true, .. }) {
            return Err(DiskError::new(Kind::Unsupported, Verb::Zero, op.range()));
        }
        Ok(())
    }
}

impl Layer for Delay {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        let below = self.below.info();
        DiskInfo { can_fast_zero: below.can_fast_zero || self.times.no_fast_zero, ..below }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        self.check(op)?;
        self.below.try_execute(op, answer)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        self.check(op)?;
        self.below.execute(op, answer)
    }

    fn passes(&self, op: &Op<'_>) -> bool {
        self.check(op).is_ok()
    }

    fn throttles(&self) -> bool {
        self.times.throttles() || self.below.throttles()
    }

    fn throttle(&self, asked: Asked) -> Throttle<'_> {
        // A fast zero that will be refused does not wait.
        let refused = asked.fast && self.times.no_fast_zero;
        let time = if refused { Duration::ZERO } else { self.times.of(asked.verb) };
        Box::pin(async move {
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            self.below.throttle(asked).await;
        })
    }

    fn linger(&self) -> Throttle<'_> {
        Box::pin(async move {
            if !self.times.close.is_zero() {
                tokio::time::sleep(self.times.close).await;
            }
            self.below.linger().await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{MemoryDisk, testing::run};

    fn asked(verb: Verb) -> Asked {
        Asked { verb, range: (0, 1), fast: false, durable: false }
    }

    fn times(words: &[(&str, &str)]) -> Result<Times, String> {
        let words: Vec<_> =
            words.iter().map(|(key, value)| (Some((*key).into()), (*value).into())).collect();
        let params = Params::of_filter("delay", ENTRY.keys, &mut words.iter().collect()).unwrap();
        Times::parse(&params).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_of_request_has_its_delay_and_the_narrower_key_wins() {
        const S: Duration = Duration::from_secs(1);
        let all = times(&[("rdelay", "1"), ("wdelay", "2"), ("delay-trim", "500ms")]).unwrap();
        let of = |verbs: &[Verb]| verbs.iter().map(|verb| all.of(*verb)).collect::<Vec<_>>();
        assert_eq!(of(&[Verb::Read, Verb::Write, Verb::Zero]), [S, 2 * S, 2 * S]);
        assert_eq!(
            of(&[Verb::Trim, Verb::Flush, Verb::Cache]),
            [S / 2, Duration::ZERO, Duration::ZERO]
        );
        assert!(all.throttles());
        for (key, holds) in [
            ("delay-read", true),
            ("delay-write", true),
            ("delay-zero", true),
            ("delay-extents", true),
            ("delay-cache", true),
            ("delay-flush", true),
            ("delay-close", true),
            ("delay-open", false),
        ] {
            let times = times(&[(key, "1.5")]).unwrap();
            assert_eq!((times.throttles(), times.is_zero()), (holds, false), "{key}");
        }
        assert!(times(&[("delay-read", "0"), ("delay-fast-zero", "0")]).unwrap().is_zero());
        for (key, value) in [("rdelay", "x"), ("delay-open", "-1"), ("delay-fast-zero", "2")] {
            assert!(times(&[(key, value)]).unwrap_err().contains(&format!("{key}={value}")));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_its_delay_and_for_the_delay_of_the_layer_below() {
        let first = times(&[("delay-read", "2")]).unwrap();
        let second = times(&[("delay-read", "3"), ("delay-close", "7")]).unwrap();
        let memory = Arc::new(MemoryDisk::new(1 << 20));
        let below = Arc::new(Delay { below: memory, times: first });
        let disk = Delay { below, times: second };
        let start = tokio::time::Instant::now();
        Disk::throttle(&disk, asked(Verb::Read)).await;
        assert_eq!(start.elapsed().as_secs(), 5);
        Disk::throttle(&disk, asked(Verb::Write)).await;
        assert_eq!(start.elapsed().as_secs(), 5);
        Disk::linger(&disk).await;
        assert_eq!(start.elapsed().as_secs(), 12);
    }

    #[test]
    fn a_fast_zero_is_refused_at_once_with_delay_fast_zero_off() {
        let zero = |fast| Op::Zero { at: 0, len: 512, fua: false, may_trim: true, fast };
        let disk = |words: &[(&str, &str)]| Delay {
            below: Arc::new(MemoryDisk::new(1 << 20)),
            times: times(words).unwrap(),
        };
        let refusing = disk(&[("delay-zero", "1ns"), ("delay-fast-zero", "no")]);
        assert_eq!(run(&refusing, &mut zero(true)).unwrap_err().kind, Kind::Unsupported);
        run(&refusing, &mut zero(false)).unwrap();
        for words in [&[("delay-zero", "1ns")], &[("delay-fast-zero", "off")]] {
            run(&disk(words), &mut zero(true)).unwrap();
        }
    }
}
