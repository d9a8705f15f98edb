//! Changes at every offset and of every length that the server accepts, in two small windows: one anywhere,
//! and one at the end of the disk. Every byte is remembered. Some changes are in flight in the same block,
//! though never for the same bytes: a server that reads a block, changes a part and writes it back must not
//! lose another change.

use std::ops::Range;

use nbd::wire::{CommandFlags, ExtentFlags, TransmissionFlags};
use nbd_client::{Done, Extent, Order, Verb};

use super::{
    super::CommandError,
    block::mix,
    drive::{Drive, index},
};

/// The length of a window, in bytes.
const WINDOW: u64 = 160 << 10;
/// How often several requests are sent at once.
const BATCHES: u64 = 100;
/// The length in bytes of the range in which the requests of one batch lie close together, and the number of
/// parts that it is cut into.
const PAGE: u64 = 4096;
const PARTS: usize = 8;
/// How often extents of several ranges are asked for.
const EXTENTS: u64 = 16;
/// Lengths around the usual block sizes of servers, in bytes.
const LENGTHS: [u64; 20] = [
    1, 2, 3, 7, 63, 64, 65, 511, 512, 513, 1023, 4095, 4096, 4097, 8191, 20_000, 65_535, 65_536,
    65_537, 100_000,
];
/// The length in bytes of the last write at the end of a window: less than any block.
const TAIL: u64 = 7;
/// The length in bytes that a server with DF must return in one piece.
const WHOLE: u64 = 64 << 10;

/// The expected content of a window.
#[derive(Debug)]
struct Window {
    at: u64,
    bytes: Vec<u8>,
    /// Which bytes have an expected value.
    known: Vec<bool>,
}

impl Window {
    fn new(at: u64, len: u64) -> Self {
        Self { at, bytes: vec![0; index(len)], known: vec![false; index(len)] }
    }

    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// The indices in the window of a range of the disk.
    fn place(&self, at: u64, len: u64) -> Range<usize> {
        let from = index(at.saturating_sub(self.at)).min(self.bytes.len());
        let to = index(at.saturating_add(len).saturating_sub(self.at)).min(self.bytes.len());
        from..to.max(from)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let place = self.place(at, bytes.len() as u64);
        self.know(at, bytes.len() as u64, true);
        if let Some(place) = self.bytes.get_mut(place) {
            place.copy_from_slice(bytes);
        }
    }

    fn know(&mut self, at: u64, len: u64, known: bool) {
        let place = self.place(at, len);
        self.known.get_mut(place).into_iter().flatten().for_each(|byte| *byte = known);
    }

    /// Applies an answered request.
    fn take(&mut self, done: &Done) {
        let Order { verb, at, len, bytes, .. } = &done.order;
        match verb {
            Verb::Write { .. } => self.put(*at, bytes),
            Verb::Zero(_) if done.result.is_ok() => self.put(*at, &vec![0; index(*len)]),
            Verb::Zero(_) | Verb::Trim { .. } => self.know(*at, *len, false),
            _ => {}
        }
    }

    /// Checks bytes that were read. The error names the first one that is wrong.
    fn judge(&self, at: u64, bytes: &[u8]) -> Result<(), CommandError> {
        let place = self.place(at, bytes.len() as u64);
        let due = self.bytes.get(place.clone()).unwrap_or_default();
        let known = self.known.get(place).unwrap_or_default();
        let wrong = bytes.iter().zip(due).zip(known).zip(at..);
        match wrong.into_iter().find(|(((is, due), known), _)| **known && is != due) {
            None => Ok(()),
            Some((((is, due), _), at)) => Err(CommandError::Wrong {
                at,
                found: format!("{is:#04x}"),
                due: format!("{due:#04x}, answered, of a request at any offset"),
            }),
        }
    }

    /// Checks an extent: it must not report data as zeroes.
    fn judge_extent(&self, extent: &Extent) -> Result<(), CommandError> {
        if !extent.flags.contains(ExtentFlags::ZERO) {
            return Ok(());
        }
        let place = self.place(extent.at, extent.len);
        let bytes = self.bytes.get(place.clone()).unwrap_or_default();
        let known = self.known.get(place.clone()).unwrap_or_default();
        match bytes.iter().zip(known).position(|(byte, known)| *known && *byte != 0) {
            None => Ok(()),
            Some(n) => Err(CommandError::Wrong {
                at: self.at + (place.start + n) as u64,
                found: format!("in an extent of zeroes, {} bytes at {}", extent.len, extent.at),
                due: "data, answered".to_owned(),
            }),
        }
    }
}

impl Drive<'_> {
    /// Runs the test in each window. No request is in flight before, and the old content is lost.
    pub(super) fn change_bytes(&mut self) -> Result<(), CommandError> {
        let unit = self.settings.unit;
        let (start, len) = self.place(&(0..self.model.blocks()));
        let end = self.settings.end - self.settings.end % unit;
        let window = WINDOW.min(len);
        let blocks = (len - window) / self.settings.block;
        let anywhere = start + self.below(blocks + 1) * self.settings.block;
        let last = start.max((end - window) - (end - window) % self.settings.block);
        for (at, to) in [(anywhere, anywhere + window), (last, end)] {
            let first = index((at - start) / self.settings.block);
            self.model.forget(&(first..index((to - start) / self.settings.block)));
            let mut window = Window::new(at, to - at);
            self.change_window(&mut window)?;
        }
        Ok(())
    }

    fn change_window(&mut self, window: &mut Window) -> Result<(), CommandError> {
        // Chance must not decide whether the last bytes of a disk are ever checked after a write.
        self.fill_window(window, window.at)?;
        self.check_window(window)?;
        for n in 0..BATCHES {
            if n.is_multiple_of(2) {
                let parts = self.parts(window);
                self.batch(window, parts, |drive| 50 + drive.below(50))?;
            } else {
                let ranges = self.ranges(window);
                self.batch(window, ranges, |drive| drive.below(100))?;
            }
        }
        let tail = TAIL.next_multiple_of(self.settings.unit).min(window.end() - window.at);
        self.fill_window(window, window.end() - tail)?;
        self.check_window(window)?;
        if self.has_extents() {
            for n in 0..EXTENTS {
                for (at, len) in self.ranges(window) {
                    let one = n.is_multiple_of(4);
                    self.ask(Order::bare(Verb::Extents { one }, at, len))?;
                }
            }
            for done in self.collect()? {
                done.extents.iter().try_for_each(|extent| window.judge_extent(extent))?;
            }
        }
        if !self.has(TransmissionFlags::SEND_FLUSH) {
            return Ok(());
        }
        self.flush()?;
        self.cut()?;
        self.check_window(window)
    }

    /// Writes from an offset to the window's end. No byte of the data is zero.
    fn fill_window(&mut self, window: &mut Window, at: u64) -> Result<(), CommandError> {
        let bytes = content(self.below(u64::MAX), index(window.end() - at), 7);
        let bytes = bytes.into_iter().map(|byte| byte | 1).collect();
        self.ask(Order::write(at, bytes, false))?;
        self.collect()?.iter().for_each(|done| window.take(done));
        Ok(())
    }

    /// Reads and checks the whole window.
    fn check_window(&mut self, window: &Window) -> Result<(), CommandError> {
        let unit = self.settings.unit;
        let half = (window.end() - window.at) / 2;
        let first = (half - half % unit).max(unit).min(window.end() - window.at);
        for (at, len) in [(window.at, first), (window.at + first, window.end() - window.at - first)]
        {
            if len > 0 {
                self.ask(Order::read(at, len, Vec::new()))?;
            }
        }
        self.collect()?.iter().try_for_each(|done| window.judge(done.order.at, &done.order.bytes))
    }

    /// Adjacent parts of one page.
    fn parts(&mut self, window: &Window) -> Vec<(u64, u64)> {
        let unit = self.settings.unit;
        let page = PAGE.max(unit * PARTS as u64).min(window.end() - window.at);
        let page = page - page % unit;
        let pages = (window.end() - window.at - page) / unit;
        let at = window.at + self.below(pages + 1) * unit;
        let mut cuts: Vec<_> = (1..PARTS).map(|_| at + self.below(page / unit) * unit).collect();
        cuts.extend([at, at + page]);
        cuts.sort_unstable();
        let ranges = cuts.windows(2).map(|pair| (pair[0], pair[1] - pair[0]));
        ranges.filter(|(_, len)| *len > 0).collect()
    }

    /// Ranges that do not overlap, of uneven lengths.
    fn ranges(&mut self, window: &Window) -> Vec<(u64, u64)> {
        let unit = self.settings.unit;
        let mut found: Vec<(u64, u64)> = Vec::new();
        for _ in 0..PARTS {
            let wanted = LENGTHS.get(index(self.below(LENGTHS.len() as u64))).copied();
            let len = wanted.unwrap_or(1).next_multiple_of(unit);
            let Some(room) = (window.end() - window.at).checked_sub(len) else { continue };
            let at = window.at + self.below(room / unit + 1) * unit;
            if found.iter().all(|&(from, other)| at + len <= from || from + other <= at) {
                found.push((at, len));
            }
        }
        found
    }

    /// Sends a request for each range, all at once. `dice`, from 0 to 99, selects the kind of request.
    fn batch(
        &mut self,
        window: &mut Window,
        ranges: Vec<(u64, u64)>,
        mut dice: impl FnMut(&mut Self) -> u64,
    ) -> Result<(), CommandError> {
        for (at, len) in ranges {
            let fua = self.has(TransmissionFlags::SEND_FUA) && self.below(4) == 0;
            let order = match dice(self) {
                0..20 => Order::read(at, len, Vec::new()),
                20..26 if len <= WHOLE && self.has(TransmissionFlags::SEND_DF) => {
                    Order { verb: Verb::ReadWhole, ..Order::read(at, len, Vec::new()) }
                }
                26..30 if self.has(TransmissionFlags::SEND_CACHE) => {
                    Order::bare(Verb::Cache, at, len)
                }
                30..38 if self.has(TransmissionFlags::SEND_TRIM) => {
                    Order::bare(Verb::Trim { fua }, at, len)
                }
                38..56 if self.has(TransmissionFlags::SEND_WRITE_ZEROES) => {
                    let fast = self.has(TransmissionFlags::SEND_FAST_ZERO) && self.below(4) == 0;
                    let mut flags = CommandFlags::empty();
                    flags.set(CommandFlags::FUA, fua);
                    flags.set(CommandFlags::NO_HOLE, self.below(2) == 0);
                    flags.set(CommandFlags::FAST_ZERO, fast);
                    Order::bare(Verb::Zero(flags), at, len)
                }
                _ => {
                    let kind = self.below(8);
                    Order::write(at, content(self.below(u64::MAX), index(len), kind), fua)
                }
            };
            self.ask(order)?;
        }
        for done in self.collect()? {
            if done.order.verb.reads() {
                window.judge(done.order.at, &done.order.bytes)?;
            }
            window.take(&done);
        }
        Ok(())
    }
}

/// Bytes without a pattern. Some begin or end with zeroes or consist of zeroes, which some servers look for.
fn content(seed: u64, len: usize, kind: u64) -> Vec<u8> {
    let words = (0..len.div_ceil(8) as u64).flat_map(|n| mix(seed ^ n).to_ne_bytes());
    let mut bytes: Vec<u8> = words.take(len).collect();
    let zeroes = match kind {
        0 => 0..len,
        1 => 0..len / 2,
        2 => len / 2..len,
        _ => 0..0,
    };
    bytes.get_mut(zeroes).into_iter().flatten().for_each(|byte| *byte = 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_knows_each_byte() {
        let mut window = Window::new(100, 10);
        window.judge(100, &[9; 10]).unwrap();
        window.put(102, &[1, 2, 0]);
        window.judge(100, &[9, 9, 1, 2, 0, 9, 9, 9, 9, 9]).unwrap();
        let wrong = window.judge(101, &[9, 1, 3]).unwrap_err();
        assert!(matches!(wrong, CommandError::Wrong { at: 103, .. }), "{wrong:?}");
        window.know(103, 1, false);
        window.judge(101, &[9, 1, 3]).unwrap();
        let extent = |at, len, flags| {
            let flags = ExtentFlags::from_bits_retain(flags);
            window.judge_extent(&Extent { at, len, flags }).is_ok()
        };
        // One reaches over both ends. Bytes without an expected value may be zeroes.
        assert!(!extent(0, 1000, 2) && extent(0, 1000, 1) && extent(103, 1000, 3));
        assert!(extent(0, 102, 2) && !extent(0, 103, 2));
    }
}
