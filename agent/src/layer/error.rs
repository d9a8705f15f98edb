//! Makes requests fail, always or with a probability: nbdkit-error-filter(1).

use std::{
    hash::{BuildHasher, RandomState},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use thiserror::Error;

use super::{Entry, absolute};
use crate::params::{Key, ParamError, Params};
use disk::{Answer, Disk, DiskError, Kind, Layer, Op, Progress, Turn, Verb};

const ERROR: &str = "EPERM|EIO|ENOMEM|EINVAL|ENOSPC|ENOTSUP|EOVERFLOW|ESHUTDOWN";
const RATE: &str = "N%|0..1|N:M";

pub(super) const ENTRY: Entry = Entry {
    name: "error",
    about: "Make requests fail, for testing clients",
    keys: &[
        Key::once("error", ERROR, "Which error [default: EIO]"),
        Key::once("error-rate", RATE, "How many of all but flushes fail [default: 0]"),
        Key::once("error-file", "PATH", "Only while this file exists"),
        Key::once("error-pread", ERROR, "Of reads"),
        Key::once("error-pread-rate", RATE, "Of reads"),
        Key::once("error-pread-file", "PATH", "Of reads"),
        Key::once("error-pwrite", ERROR, "Of writes"),
        Key::once("error-pwrite-rate", RATE, "Of writes"),
        Key::once("error-pwrite-file", "PATH", "Of writes"),
        Key::once("error-trim", ERROR, "Of trims"),
        Key::once("error-trim-rate", RATE, "Of trims"),
        Key::once("error-trim-file", "PATH", "Of trims"),
        Key::once("error-zero", ERROR, "Of zeroes"),
        Key::once("error-zero-rate", RATE, "Of zeroes"),
        Key::once("error-zero-file", "PATH", "Of zeroes"),
        Key::once("error-extents", ERROR, "Of requests for extents"),
        Key::once("error-extents-rate", RATE, "Of requests for extents"),
        Key::once("error-extents-file", "PATH", "Of requests for extents"),
        Key::once("error-cache", ERROR, "Of requests to cache"),
        Key::once("error-cache-rate", RATE, "Of requests to cache"),
        Key::once("error-cache-file", "PATH", "Of requests to cache"),
        Key::once("error-flush", ERROR, "Of flushes"),
        Key::once("error-flush-rate", RATE, "Of flushes, which error-rate does not count"),
        Key::once("error-flush-file", "PATH", "Of flushes"),
    ],
    build: |params, stack, _| {
        let errors = Arc::new(Errors::parse(params)?);
        Ok(stack
            .each(move |below, _| Ok(Arc::new(ErrorDisk { below, errors: Arc::clone(&errors) }))))
    },
};

/// One kind of request and its three keys.
type Keys = (Verb, [&'static str; 3]);

const KEYS: [Keys; 7] = [
    (Verb::Read, ["error-pread", "error-pread-rate", "error-pread-file"]),
    (Verb::Write, ["error-pwrite", "error-pwrite-rate", "error-pwrite-file"]),
    (Verb::Trim, ["error-trim", "error-trim-rate", "error-trim-file"]),
    (Verb::Zero, ["error-zero", "error-zero-rate", "error-zero-file"]),
    (Verb::Extents, ["error-extents", "error-extents-rate", "error-extents-file"]),
    (Verb::Cache, ["error-cache", "error-cache-rate", "error-cache-file"]),
    (Verb::Flush, ["error-flush", "error-flush-rate", "error-flush-file"]),
];

/// The errors that NBD can send, by their names in errno(3).
const NAMES: [&str; 8] =
    ["EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC", "ENOTSUP", "EOVERFLOW", "ESHUTDOWN"];
const KINDS: [Kind; 8] = [
    Kind::Denied,
    Kind::Io,
    Kind::NoMemory,
    Kind::Invalid,
    Kind::NoSpace,
    Kind::Unsupported,
    Kind::TooLarge,
    Kind::ShutDown,
];

/// How one kind of request fails.
#[derive(Debug, Clone, PartialEq)]
struct Failing {
    verb: Verb,
    kind: Kind,
    /// 0 to 1.
    rate: f64,
    /// Requests fail only while this file exists.
    file: Option<PathBuf>,
}

#[derive(Debug)]
struct Errors {
    failing: Vec<Failing>,
    dice: Dice,
}

impl Errors {
    fn parse(params: &Params<'_>) -> Result<Self, ParamError> {
        let rate_of = |key| params.parsed(key, "a rate of errors", parse_rate);
        let kind_of = |key| params.choice(key, &NAMES, &KINDS);
        let file_of = |key| params.value(key).map(absolute);
        let (kind, rate, file) = (kind_of("error")?, rate_of("error-rate")?, file_of("error-file"));
        let failing = KEYS.iter().map(|&(verb, [kind_key, rate_key, file_key])| {
            // A client never forgets a failed flush, so flushes fail only by their own rate.
            let common = rate.filter(|_| verb != Verb::Flush);
            Ok(Failing {
                verb,
                kind: kind_of(kind_key)?.or(kind).unwrap_or(Kind::Io),
                rate: rate_of(rate_key)?.or(common).unwrap_or(0.0),
                file: file_of(file_key).or_else(|| file.clone()),
            })
        });
        let failing = failing.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            failing: failing.into_iter().filter(|failing| failing.rate > 0.0).collect(),
            dice: Dice::new(),
        })
    }

    /// How requests of this kind fail; `None` if they do not.
    fn of(&self, verb: Verb) -> Option<&Failing> {
        self.failing.iter().find(|failing| failing.verb == verb)
    }
}

/// `N%`, a probability, or `N:M` (N of M).
fn parse_rate(text: &str) -> Result<f64, &'static str> {
    let number = |text: &str| text.parse::<f64>().ok();
    let rate = if let Some(percent) = text.strip_suffix('%') {
        number(percent).map(|percent| percent / 100.0)
    } else if let Some((some, all)) = text.split_once(':') {
        number(some).zip(number(all)).map(|(some, all)| some / all)
    } else {
        number(text)
    };
    rate.filter(|rate| (0.0..=1.0).contains(rate))
        .ok_or("write 0% to 100%, a probability from 0 to 1, or N:M for N of M")
}

/// Pseudo-random numbers for many threads at once (splitmix64: a step is one addition).
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn new() -> Self {
        Self(AtomicU64::new(RandomState::new().hash_one("error")))
    }

    /// True with this probability.
    fn hits(&self, rate: f64) -> bool {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let mut z = self.0.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 32 bits are exact in a float, and finer than any useful rate.
        f64::from((z >> 32) as u32) < rate * (f64::from(u32::MAX) + 1.0)
    }
}

#[derive(Debug)]
struct ErrorDisk {
    below: Arc<dyn Disk>,
    errors: Arc<Errors>,
}

#[derive(Debug, Error)]
#[error("injected by the error filter")]
struct Injected;

fn injected(failing: &Failing, op: &Op<'_>) -> DiskError {
    let source = io::Error::other(Injected);
    DiskError { source: Some(source), ..DiskError::new(failing.kind, failing.verb, op.range()) }
}

impl Layer for ErrorDisk {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match self.errors.of(op.verb()) {
            None => self.below.try_execute(op, answer),
            Some(failing) if failing.rate >= 1.0 && failing.file.is_none() => {
                Err(injected(failing, op))
            }
            // Decided once, in `execute`, because looking for the file may block.
            Some(_) => Ok(Turn::WouldBlock),
        }
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        match self.errors.of(op.verb()) {
            Some(failing)
                if failing.file.as_ref().is_none_or(|file| file.exists())
                    && self.errors.dice.hits(failing.rate) =>
            {
                Err(injected(failing, op))
            }
            _ => self.below.execute(op, answer),
        }
    }

    fn passes(&self, op: &Op<'_>) -> bool {
        self.errors.of(op.verb()).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{Data, MemoryDisk, testing::run};

    fn disk(words: &[(&str, &str)]) -> Result<ErrorDisk, String> {
        let words: Vec<_> =
            words.iter().map(|(key, value)| (Some((*key).into()), (*value).into())).collect();
        let params = Params::of_filter("error", ENTRY.keys, &mut words.iter().collect()).unwrap();
        let errors = Arc::new(Errors::parse(&params).map_err(|error| error.to_string())?);
        Ok(ErrorDisk { below: Arc::new(MemoryDisk::new(1 << 20)), errors })
    }

    fn read(disk: &ErrorDisk) -> Option<Kind> {
        run(disk, &mut Op::Read { at: 0, len: 1 }).err().map(|error| error.kind)
    }

    fn write(disk: &ErrorDisk) -> Option<Kind> {
        let mut op = Op::Write { at: 0, data: Data::Bytes(b"x"), fua: false };
        run(disk, &mut op).err().map(|error| error.kind)
    }

    fn flush(disk: &ErrorDisk) -> Option<Kind> {
        run(disk, &mut Op::Flush).err().map(|error| error.kind)
    }

    #[test]
    fn rates_are_read_as_nbdkit_reads_them() {
        for (text, rate) in
            [("0", 0.0), ("1", 1.0), ("0.1", 0.1), (".5", 0.5), ("10%", 0.1), ("1e-2", 0.01)]
        {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        assert_eq!(parse_rate("1:10"), Ok(0.1));
        for wrong in ["", "50", "2", "-1", "200%", "abc", "5%x", "nan", "inf", "%", "1:0", "2:1"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_fails_by_default_and_flushes_fail_only_by_their_own_rate() {
        let none = disk(&[("error", "EPERM")]).unwrap();
        assert_eq!([read(&none), write(&none), flush(&none)], [None; 3]);
        let all = disk(&[("error-rate", "1")]).unwrap();
        assert_eq!([read(&all), write(&all)], [Some(Kind::Io); 2]);
        assert_eq!(flush(&all), None);
        let flushes = disk(&[("error-flush-rate", "1"), ("error-flush", "ENOSPC")]).unwrap();
        assert_eq!(flush(&flushes), Some(Kind::NoSpace));
        assert_eq!(read(&flushes), None);
    }

    #[test]
    fn the_narrower_key_wins() {
        let disk = disk(&[
            ("error", "ENOMEM"),
            ("error-rate", "100%"),
            ("error-pread", "ESHUTDOWN"),
            ("error-pwrite-rate", "0"),
        ]);
        let disk = disk.unwrap();
        assert_eq!(read(&disk), Some(Kind::ShutDown));
        assert_eq!(write(&disk), None);
        let zero = &mut Op::Zero { at: 0, len: 1, fua: false, may_trim: true, fast: false };
        assert_eq!(run(&disk, zero).unwrap_err().kind, Kind::NoMemory);
    }

    #[test]
    fn requests_fail_at_the_given_rate() {
        let disk = disk(&[("error-rate", "0.25")]).unwrap();
        let failed = (0..10_000).filter(|_| read(&disk).is_some()).count();
        // Seven standard deviations.
        assert!((2200..2800).contains(&failed), "{failed}");
    }

    #[test]
    fn requests_fail_while_the_file_exists() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trigger");
        let words = [("error-rate", "1"), ("error-pread-file", file.to_str().unwrap())];
        let disk = disk(&words).unwrap();
        assert_eq!([read(&disk), write(&disk)], [None, Some(Kind::Io)]);
        std::fs::write(&file, "").unwrap();
        assert_eq!(read(&disk), Some(Kind::Io));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read(&disk), None);
    }

    #[test]
    fn wrong_values_are_named() {
        let error = disk(&[("error", "ENOENT")]).unwrap_err();
        assert!(error.contains("error=ENOENT") && error.contains("ESHUTDOWN"), "{error}");
        let error = disk(&[("error-rate", "2")]).unwrap_err();
        assert!(error.contains("error-rate=2"), "{error}");
    }
}
