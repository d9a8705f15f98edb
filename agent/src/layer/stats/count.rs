//! The counters. Counting takes one atomic addition per counter and no lock.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use disk::Verb;

/// In the order of the report.
pub(super) const VERBS: [(Verb, &str); 7] = [
    (Verb::Read, "read"),
    (Verb::Write, "write"),
    (Verb::Trim, "trim"),
    (Verb::Zero, "zero"),
    (Verb::Extents, "extents"),
    (Verb::Cache, "cache"),
    (Verb::Flush, "flush"),
];

/// The index for offset 0, which has every alignment.
pub(super) const ANY: usize = 64;

#[derive(Debug)]
pub(super) struct Counts {
    verbs: [Count; VERBS.len()],
    sizes: bool,
}

/// The counters of one kind of request.
#[derive(Debug, Default)]
pub(super) struct Count {
    ops: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    /// Indexed by the bits of the length, less one. Empty if sizes are not counted, or if the request has none.
    sizes: Box<[Size]>,
}

#[derive(Debug)]
struct Size {
    bytes: AtomicU64,
    /// Indexed by the trailing zero bits of the offset; the last index is `ANY`.
    aligned: [AtomicU64; ANY + 1],
}

/// The counts of one size.
#[derive(Debug, Clone)]
pub(super) struct Sized {
    /// Lengths from 2^bits to below 2^(bits + 1).
    pub(super) bits: usize,
    pub(super) bytes: u64,
    pub(super) aligned: [u64; ANY + 1],
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counts {
    /// `sizes`: count sizes and alignments too.
    pub(super) fn new(sizes: bool) -> Self {
        let verbs = VERBS.map(|(verb, _)| Count {
            sizes: (0..if sizes && verb != Verb::Flush { 64 } else { 0 })
                .map(|_| Size {
                    bytes: AtomicU64::new(0),
                    aligned: array::from_fn(|_| AtomicU64::new(0)),
                })
                .collect(),
            ..Count::default()
        });
        Self { verbs, sizes }
    }

    /// Counts a part of a request that goes on.
    pub(super) fn add_part(&self, verb: Verb, bytes: u64, took: Duration) {
        let Some(count) = self.of(verb) else { return };
        count.bytes.fetch_add(bytes, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        count.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Counts a request that succeeded, or its last part.
    pub(super) fn add(&self, verb: Verb, (at, len): (u64, u64), took: Duration) {
        let Some(count) = self.of(verb) else { return };
        count.ops.fetch_add(1, Ordering::Relaxed);
        count.bytes.fetch_add(len, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        count.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        let size = len.checked_ilog2().and_then(|bits| count.sizes.get(bits as usize));
        if let Some(size) = size {
            size.bytes.fetch_add(len, Ordering::Relaxed);
            // 64 for offset 0: `ANY`.
            size.aligned[at.trailing_zeros() as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn of(&self, verb: Verb) -> Option<&Count> {
        let place = VERBS.iter().position(|(known, _)| *known == verb)?;
        self.verbs.get(place)
    }

    pub(super) fn has_sizes(&self) -> bool {
        self.sizes
    }
}

impl Count {
    pub(super) fn ops(&self) -> u64 {
        read(&self.ops)
    }

    pub(super) fn bytes(&self) -> u64 {
        read(&self.bytes)
    }

    pub(super) fn microseconds(&self) -> u64 {
        read(&self.nanoseconds) / 1000
    }

    /// The sizes that occurred; empty if sizes are not counted.
    pub(super) fn sizes(&self) -> Vec<Sized> {
        let read_all = |(bits, size): (usize, &Size)| Sized {
            bits,
            bytes: read(&size.bytes),
            aligned: array::from_fn(|zeroes| read(&size.aligned[zeroes])),
        };
        let mut sizes: Vec<_> = self.sizes.iter().enumerate().map(read_all).collect();
        sizes.retain(|size| size.requests() > 0);
        sizes
    }
}

impl Sized {
    pub(super) fn requests(&self) -> u64 {
        self.aligned.iter().sum()
    }
}
