//! Executes requests, and applies the fault.

use std::{ops::Range, thread, time::Duration};

use super::{
    Disk, Fault, SIZE, lock,
    session::{Asked, Session},
};

const EIO: u32 = 5;
const ENOTSUP: u32 = 95;
/// NBD_STATE_HOLE and NBD_STATE_ZERO of `base:allocation`.
const HOLE: u32 = 3;
const BLOCK: usize = 512;
/// A request that is longer, in bytes, is a long one.
const SHORT: usize = 64 << 10;
const LONG: usize = 256 << 10;

/// The whole blocks that a range touches.
fn blocks(at: usize, len: usize) -> Range<usize> {
    at - at % BLOCK..(at + len).next_multiple_of(BLOCK).min(SIZE)
}

impl Session {
    fn has(&self, fault: Fault) -> bool {
        self.kind.fault == Some(fault)
    }

    /// The offset that is meant, as this server understands it.
    fn offset(&self, at: usize) -> usize {
        match self.kind.fault {
            Some(Fault::CutsOffsets) => at & 0xffff_ffff,
            Some(Fault::HasLess) if at >= SIZE => SIZE - 4096 + at % 4096,
            _ => at,
        }
    }

    pub(super) fn read(&self, asked: &Asked) -> Vec<u8> {
        let (at, len) = (self.offset(asked.at), asked.len);
        if at >= SIZE {
            return self.read_far(at, len);
        }
        let at = if self.has(Fault::ReadsAtBlocks) { at - at % BLOCK } else { at };
        let disk = lock(&self.disk);
        let mut bytes = disk.now[at..(at + len).min(SIZE)].to_vec();
        drop(disk);
        bytes.resize(len, 0);
        for (start, hidden) in &self.hidden {
            for (n, byte) in hidden.iter().enumerate() {
                if let Some(place) = (start + n).checked_sub(at).and_then(|n| bytes.get_mut(n)) {
                    *place = *byte;
                }
            }
        }
        if self.has(Fault::CutsReads) && len > LONG {
            bytes[LONG..].fill(0);
        }
        if self.has(Fault::CutsWholeReads) && asked.whole && len > 4096 {
            bytes[4096..].fill(0);
        }
        bytes
    }

    fn read_far(&self, at: usize, len: usize) -> Vec<u8> {
        let disk = lock(&self.disk);
        let block = |at: usize| disk.far.get(&at).cloned().unwrap_or_else(|| vec![0; BLOCK]);
        (at..at + len).step_by(BLOCK).flat_map(block).collect()
    }

    pub(super) fn write(&mut self, asked: &Asked, mut bytes: Vec<u8>) {
        let (at, fua) = (self.offset(asked.at), asked.fua);
        if at >= SIZE {
            let mut disk = lock(&self.disk);
            for (at, block) in (at..).step_by(BLOCK).zip(bytes.chunks(BLOCK)) {
                disk.far.insert(at, block.to_vec());
            }
            return;
        }
        let nth = {
            let mut disk = lock(&self.disk);
            disk.writes += 1;
            disk.writes
        };
        let now = nth % 50 == 49;
        let all = blocks(at, bytes.len());
        let inside = all != (at..at + bytes.len());
        match self.kind.fault {
            Some(Fault::DropsAWrite) if now => {}
            Some(Fault::SwapsTwo) if now && at >= bytes.len() => {
                let before = at - bytes.len();
                self.put(before, &bytes, fua);
            }
            Some(Fault::TearsAWrite) if now && bytes.len() > BLOCK => {
                bytes.truncate(bytes.len() / 2);
                self.put(at, &bytes, fua);
            }
            Some(Fault::FlipsABit) if now => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                self.put(at, &bytes, fua);
            }
            Some(Fault::ShowsOthersLate) if !fua => self.hidden.push((at, bytes)),
            Some(Fault::CutsWrites) => self.put(at, &bytes[..bytes.len().min(LONG)], fua),
            Some(Fault::WritesAtBlocks) => self.put(all.start, &bytes, fua),
            Some(Fault::WritesWholeBlocks) if inside => {
                let (from, to) = (at.next_multiple_of(BLOCK), at + bytes.len());
                let to = to - to % BLOCK;
                if from < to {
                    self.put(from, &bytes[from - at..to - at], fua);
                }
            }
            Some(Fault::WritesZeroesBeside) if inside => {
                let mut whole = vec![0; all.len()];
                whole[at - all.start..][..bytes.len()].copy_from_slice(&bytes);
                self.put(all.start, &whole, fua);
            }
            Some(Fault::RacesInABlock) if inside => {
                let mut whole = lock(&self.disk).now[all.clone()].to_vec();
                // There is no event to wait for: this is the time that a disk takes.
                thread::sleep(Duration::from_micros(200));
                whole[at - all.start..][..bytes.len()].copy_from_slice(&bytes);
                self.put(all.start, &whole, fua);
            }
            Some(Fault::LosesTheTail) => {
                let last = self.kind.size - self.kind.size % BLOCK;
                let kept = last.saturating_sub(at).min(bytes.len());
                self.put(at, &bytes[..kept], fua);
            }
            Some(Fault::TakesForZeroes)
                if bytes.len() > 64 && bytes[..64].iter().all(|byte| *byte == 0) =>
            {
                bytes.fill(0);
                self.put(at, &bytes, fua);
            }
            _ => self.put(at, &bytes, fua),
        }
    }

    pub(super) fn trim(&mut self, asked: &Asked) {
        let &Asked { at, len, fua, .. } = asked;
        let range = match self.kind.fault {
            Some(Fault::TrimsTooMuch) => at..at + len + BLOCK,
            Some(Fault::TrimsLongTooFar) if len > SHORT => at..at + len + BLOCK,
            Some(Fault::TrimsWholeBlocks) => blocks(at, len),
            _ => at..at + len,
        };
        self.clear(range, fua);
    }

    pub(super) fn zero(&mut self, asked: &Asked) -> u32 {
        let &Asked { at, len, mut fua, .. } = asked;
        let range = match self.kind.fault {
            Some(Fault::ZeroesTooLittle) => at..(at + len).saturating_sub(BLOCK).max(at),
            Some(Fault::CutsZeroes) => at..at + len.min(SHORT),
            Some(Fault::ZeroesLongTooFar) if len > SHORT => at..at + len + BLOCK,
            Some(Fault::ZeroesWholeBlocks) => blocks(at, len),
            Some(Fault::ForgetsFastZeroes) if asked.fast => at..at,
            // Reading and writing a block is not fast.
            _ if asked.fast && blocks(at, len) != (at..at + len) => return ENOTSUP,
            _ => at..at + len,
        };
        fua &= !self.has(Fault::IgnoresFuaOfZeroes);
        self.clear(range, fua);
        0
    }

    fn clear(&mut self, range: Range<usize>, fua: bool) {
        let end = range.end.min(SIZE);
        self.put(range.start, &vec![0; end - range.start], fua);
    }

    pub(super) fn cache(&mut self, asked: &Asked) {
        if self.has(Fault::CacheDestroys) {
            self.put(asked.at, &vec![0; asked.len], false);
        }
    }

    /// Runs of zeroes and of data, in blocks.
    pub(super) fn extents(&self, asked: &Asked) -> Vec<(usize, u32)> {
        let &Asked { at, len, one, .. } = asked;
        let disk = lock(&self.disk);
        let late = self.has(Fault::SaysLate);
        let is_zero = |from: usize, to: usize| {
            let bytes = if late { &disk.durable } else { &disk.now };
            let bytes = match self.kind.fault {
                Some(Fault::SaysAllIsHole) => return true,
                Some(Fault::SaysTheRestIsHole) if from >= at + SHORT => return true,
                Some(Fault::SaysInLargeBlocks) => {
                    let start = from - from % SHORT;
                    &bytes[start..start + BLOCK]
                }
                Some(Fault::SaysShifted) => &bytes[(from + BLOCK).min(SIZE - 1)..],
                Some(Fault::SaysOfBlocks) => &bytes[from.saturating_sub(at % BLOCK)..],
                _ => &bytes[from..],
            };
            bytes[..(to - from).min(bytes.len())].iter().all(|byte| *byte == 0)
        };
        let mut found: Vec<(usize, u32)> = Vec::new();
        let mut from = at;
        while from < at + len {
            let to = ((from / BLOCK + 1) * BLOCK).min(at + len);
            let flags = if from < SIZE && is_zero(from, to) { HOLE } else { 0 };
            match found.last_mut() {
                Some((len, last)) if *last == flags => *len += to - from,
                Some(_) if one => break,
                _ => found.push((to - from, flags)),
            }
            from = to;
        }
        found
    }

    fn put(&mut self, at: usize, bytes: &[u8], fua: bool) {
        let Some(mut disk) = self.disk() else { return };
        let bytes = &bytes[..bytes.len().min(SIZE - at)];
        disk.now[at..at + bytes.len()].copy_from_slice(bytes);
        if fua && !self.has(Fault::IgnoresFua) {
            disk.durable[at..at + bytes.len()].copy_from_slice(bytes);
        }
        drop(disk);
        self.changed.push((at, bytes.len()));
    }

    pub(super) fn flush(&mut self) -> u32 {
        for (at, bytes) in std::mem::take(&mut self.hidden) {
            self.put(at, &bytes, false);
        }
        let changed = std::mem::take(&mut self.changed);
        let own = self.has(Fault::FlushesItsOwn);
        let early = self.has(Fault::FlushesEarly);
        let Some(mut disk) = self.disk() else { return EIO };
        let Disk { now, durable, failing, .. } = &mut *disk;
        if *failing > 0 {
            // As a kernel does: what could not be written is clean from then on, and gone.
            *failing -= 1;
            now.clone_from(durable);
            return EIO;
        }
        if own {
            for (at, len) in changed {
                durable[at..at + len].copy_from_slice(&now[at..at + len]);
            }
        } else if !early {
            durable.clone_from(now);
        }
        0
    }
}
