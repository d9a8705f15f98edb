//! The bytes of a read that have arrived. None may arrive twice, and in the end none may be missing.

use std::collections::BTreeMap;

/// The most separate runs of one read. Only a server that answers out of order causes any.
const MOST_RUNS: usize = 1 << 16;

/// The bytes of one range that have arrived.
#[derive(Debug)]
pub(super) struct Coverage {
    /// All bytes before this offset have arrived.
    front: u64,
    end: u64,
    /// Runs beyond the front, from start to end. They touch neither each other nor the front.
    runs: BTreeMap<u64, u64>,
}

impl Coverage {
    /// The range `at..end`, of which nothing has arrived.
    pub(super) const fn new(at: u64, end: u64) -> Self {
        Self { front: at, end, runs: BTreeMap::new() }
    }

    /// Adds `at..at + len`. An error says what is wrong with it.
    pub(super) fn add(&mut self, at: u64, len: u64) -> Result<(), &'static str> {
        let end = at.checked_add(len).filter(|end| *end <= self.end);
        let Some(end) = end else { return Err("bytes past the end of the read") };
        if len == 0 {
            return Err("a chunk of no bytes");
        }
        if at < self.front {
            return Err("bytes that have come already, or from before the read");
        }
        let next = self.runs.range(at..).next().map(|(start, end)| (*start, *end));
        if next.is_some_and(|(start, _)| start < end) {
            return Err("bytes that have come already");
        }
        let before = self.runs.range(..at).next_back().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, until)| until > at) {
            return Err("bytes that have come already");
        }
        let end = match next.filter(|(start, _)| *start == end) {
            Some((start, until)) => {
                self.runs.remove(&start);
                until
            }
            None => end,
        };
        if at == self.front {
            self.front = end;
        } else if let Some((start, _)) = before.filter(|(_, until)| *until == at) {
            self.runs.insert(start, end);
        } else if self.runs.len() < MOST_RUNS {
            self.runs.insert(at, end);
        } else {
            return Err("a read in too many pieces out of order");
        }
        Ok(())
    }

    /// Whether all bytes have arrived.
    pub(super) fn is_whole(&self) -> bool {
        self.front == self.end
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        /// The model is an array of flags.
        #[test]
        fn agrees_with_an_array(pieces in vec((0_u64..70, 0_u64..20), 0..40)) {
            let (start, end) = (10, 60);
            let mut coverage = Coverage::new(start, end);
            let mut seen = [false; 100];
            for (at, len) in pieces {
                let range = usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
                let fit = len > 0 && at >= start && at + len <= end
                    && !seen[range.clone()].contains(&true);
                prop_assert_eq!(coverage.add(at, len).is_ok(), fit, "{}+{}", at, len);
                if fit {
                    seen[range].fill(true);
                }
                prop_assert_eq!(coverage.is_whole(), !seen[10..60].contains(&false));
            }
        }
    }

    #[test]
    fn a_server_that_sends_every_other_byte_is_stopped() {
        let mut coverage = Coverage::new(0, u64::MAX);
        let most = MOST_RUNS as u64;
        for index in 0..most {
            coverage.add(2 * index + 1, 1).unwrap();
        }
        assert!(coverage.add(2 * most + 1, 1).is_err());
        assert!(coverage.add(u64::MAX, 1).is_err());
    }
}
