//! What is done when it is asked for, and what a fault makes of it.

use super::{
    Disk, Fault, SIZE, lock,
    session::{Asked, Session},
};

const EIO: u32 = 5;
/// What reads as zeroes, as `base:allocation` has it.
const HOLE: u32 = 3;
const BLOCK: usize = 512;

impl Session {
    fn has(&self, fault: Fault) -> bool {
        self.kind.fault == Some(fault)
    }

    pub(super) fn read(&self, asked: &Asked) -> Vec<u8> {
        let &Asked { at, len, .. } = asked;
        let mut bytes = lock(&self.disk).now[at..at + len].to_vec();
        for (start, hidden) in &self.hidden {
            for (n, byte) in hidden.iter().enumerate() {
                if let Some(place) = (start + n).checked_sub(at).and_then(|n| bytes.get_mut(n)) {
                    *place = *byte;
                }
            }
        }
        bytes
    }

    pub(super) fn write(&mut self, asked: &Asked, mut bytes: Vec<u8>) {
        let &Asked { at, fua, .. } = asked;
        let nth = {
            let mut disk = lock(&self.disk);
            disk.writes += 1;
            disk.writes
        };
        let now = nth % 50 == 49;
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
            _ => self.put(at, &bytes, fua),
        }
    }

    pub(super) fn trim(&mut self, asked: &Asked) {
        let &Asked { at, len, fua, .. } = asked;
        let more = if self.has(Fault::TrimsTooMuch) { BLOCK } else { 0 };
        self.put(at, &vec![0; (len + more).min(SIZE - at)], fua);
    }

    pub(super) fn zero(&mut self, asked: &Asked) -> u32 {
        let &Asked { at, len, fua, .. } = asked;
        let less = if self.has(Fault::ZeroesTooLittle) { BLOCK.min(len) } else { 0 };
        self.put(at, &vec![0; len - less], fua);
        0
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
        let mut found: Vec<(usize, u32)> = Vec::new();
        let mut from = at;
        while from < at + len {
            let to = ((from / BLOCK + 1) * BLOCK).min(at + len);
            let zero = disk.now[from..to].iter().all(|byte| *byte == 0);
            let flags = if zero { HOLE } else { 0 };
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
        let Some(mut disk) = self.disk() else { return EIO };
        let fails = disk.failing > 0;
        let Disk { now, durable, failing, .. } = &mut *disk;
        if fails {
            // As a kernel does: what could not be written is clean from then on, and gone.
            *failing -= 1;
            now.clone_from(durable);
            return EIO;
        }
        if !self.has(Fault::FlushesEarly) {
            durable.clone_from(now);
        }
        0
    }
}
