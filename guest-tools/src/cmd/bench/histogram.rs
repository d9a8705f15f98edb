//! Latencies in buckets that are at most 1.6 % wide: 64 buckets per power of two of nanoseconds.

use std::time::Duration;

const FINE: u32 = 6;

#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Histogram {
    pub(super) fn put(&mut self, latency: Duration) {
        let place = bucket(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        if self.buckets.len() <= place {
            self.buckets.resize(place + 1, 0);
        }
        if let Some(bucket) = self.buckets.get_mut(place) {
            *bucket += 1;
        }
        self.count += 1;
        self.longest = self.longest.max(latency);
    }

    pub(super) fn add(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) const fn longest(&self) -> Duration {
        self.longest
    }

    /// The latency that this many in 10,000 do not exceed (nearest rank). Zero if nothing was
    /// recorded.
    pub(super) fn percentile(&self, of_10000: u64) -> Duration {
        let rank = (self.count * of_10000).div_ceil(10_000).max(1);
        let mut seen = 0;
        let place = self.buckets.iter().position(|bucket| {
            seen += bucket;
            seen >= rank
        });
        place.map_or(Duration::ZERO, |place| Duration::from_nanos(middle(place)).min(self.longest))
    }
}

fn bucket(nanos: u64) -> usize {
    let power = nanos.max(1).ilog2().saturating_sub(FINE);
    let place = (u64::from(power) << FINE) + (nanos >> power);
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// The middle of a bucket, in nanoseconds.
fn middle(place: usize) -> u64 {
    let place = place as u64;
    if place < 2 << FINE {
        return place;
    }
    let power = (place >> FINE) - 1;
    let low = (place - (power << FINE)) << power;
    low + (1 << power) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_in_a_bucket_about_as_long() {
        for nanos in (0..200).chain((8..63).flat_map(|power| [1 << power, (1 << power) + 12345])) {
            let found = middle(bucket(nanos));
            let off = found.abs_diff(nanos);
            assert!(off <= nanos / 64 + 1, "{nanos}: {found}");
        }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(5000), Duration::ZERO);
        (1..=100).for_each(|n| histogram.put(Duration::from_nanos(n)));
        for (of, nanos) in [(0, 1), (100, 1), (5000, 50), (9900, 99), (9999, 100), (10_000, 100)] {
            assert_eq!(histogram.percentile(of).as_nanos(), nanos, "{of}");
        }
        let mut both = Histogram::default();
        both.add(&histogram);
        both.put(Duration::from_micros(5));
        assert_eq!((both.count(), both.longest().as_nanos()), (101, 5000));
    }
}
