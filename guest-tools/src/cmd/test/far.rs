//! Tests a few blocks after the tested range, if the export continues: at its end, and around the offsets
//! at which another bit is needed. A server that truncates offsets, or has less space than it reports,
//! fails only there.

use nbd::wire::TransmissionFlags;
use nbd_client::Order;

use super::{super::CommandError, block, drive::Drive, drive::index};

/// Blocks per place. Half of them are before its offset.
const BLOCKS: u64 = 8;
/// The exponent of the first of those offsets, which are powers of two.
const FIRST: u32 = 31;

/// The places. They do not overlap.
fn places(tested: u64, size: u64, block: u64) -> Vec<u64> {
    let half = BLOCKS / 2 * block;
    let last = (size - size % block).saturating_sub(2 * half);
    let around = (FIRST..u64::BITS).map(|bit| (1 << bit) - half).filter(|at| *at < last);
    let mut found: Vec<u64> = Vec::new();
    for at in around.chain([last]) {
        // The offset is a multiple of the block, and so is half of the place.
        if at >= found.last().map_or(tested, |before| before + 2 * half) {
            found.push(at);
        }
    }
    found
}

impl Drive<'_> {
    fn far(&self) -> Vec<u64> {
        let settings = &self.settings;
        if !settings.whole {
            return Vec::new();
        }
        places(settings.at + settings.len, settings.size, settings.block)
    }

    /// Writes to all places. If a write lands in the tested range instead, the next check of that range
    /// finds it.
    pub(super) fn write_far(&mut self) -> Result<(), CommandError> {
        for at in self.far() {
            let mut bytes = vec![0; index(BLOCKS * self.settings.block)];
            block::fill(&mut bytes, self.settings.seed, at, 1);
            self.ask(Order::write(at, bytes, false))?;
        }
        self.collect()?;
        self.read_far("answered")
    }

    /// Reads all places again, after the connections were cut. They were flushed before.
    pub(super) fn check_far(&mut self) -> Result<(), CommandError> {
        if !self.has(TransmissionFlags::SEND_FLUSH) {
            return Ok(());
        }
        self.read_far("answered and made durable")
    }

    fn read_far(&mut self, settled: &str) -> Result<(), CommandError> {
        for at in self.far() {
            self.ask(Order::read(at, BLOCKS * self.settings.block, Vec::new()))?;
        }
        let run = self.settings.seed;
        for done in self.collect()? {
            let (at, bytes) = (done.order.at, &done.order.bytes);
            let Some(first) = block::first_wrong(bytes, run, at, 1) else { continue };
            let from = first - first % index(self.settings.block);
            let wrong = bytes.get(from..).unwrap_or_default();
            let wrong = wrong.get(..index(self.settings.block)).unwrap_or(wrong);
            return Err(CommandError::Wrong {
                at: at + first as u64,
                found: block::told(wrong, run, at + from as u64),
                due: format!("generation 1, {settled}"),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_behind_the_tested_range_and_in_the_export() {
        const GIB: u64 = 1 << 30;
        assert!(places(GIB, GIB, 512).is_empty());
        assert!(places(GIB, GIB + 4095, 512).is_empty());
        assert_eq!(places(GIB, GIB + 4096, 512), [GIB]);
        assert_eq!(places(GIB, 2 * GIB, 512), [2 * GIB - 4096]);
        // The end lies within a place.
        assert_eq!(places(GIB, 2 * GIB + 1024, 512), [2 * GIB - 3072]);
        let all = places(GIB, u64::MAX / 2, 4096);
        assert_eq!(all[..2], [2 * GIB - 16384, 4 * GIB - 16384]);
        assert!(all.is_sorted() && all.len() == 33, "{}", all.len());
        assert!(all.iter().all(|at| at.is_multiple_of(4096)));
    }
}
