//! The expected content of a disk, so that no figure is taken from a server that sends garbage.
//!
//! Every byte is known: a pattern that repeats every `UNIT` and does not compress. The first and
//! last eight bytes of every 4 KiB block are a stamp with the block's offset and the number of
//! times that its unit has been written. Timed reads check the stamp of each chunk; `verify` checks
//! all bytes.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::{Failure, case::Media, session::Session};

/// The length of a write, and the period of the pattern, in bytes.
pub(crate) const UNIT: usize = 256 * 1024;

/// The distance between stamps, in bytes.
pub(crate) const BLOCK: usize = 4096;

/// The content of one disk.
#[derive(Debug)]
pub(crate) struct Content {
    /// How often each unit has been written since the disk was filled.
    generations: Vec<AtomicU32>,
    /// All servers have the same file, so writes repeat the content that it has already.
    shared: bool,
}

/// splitmix64's finalizer.
fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn stamp(at: u64, generation: u32) -> u64 {
    mixed(at ^ (u64::from(generation) << 44) ^ 0x9e37_79b9_7f4a_7c15)
}

impl Content {
    /// The content after the disk was filled.
    pub(crate) fn of(media: Media) -> Self {
        let generations = (0..media.size() / UNIT as u64).map(|_| AtomicU32::new(0)).collect();
        Self { generations, shared: media != Media::Memory }
    }

    pub(crate) fn size(&self) -> u64 {
        (self.generations.len() * UNIT) as u64
    }

    fn generation(&self, at: u64) -> &AtomicU32 {
        &self.generations[usize::try_from(at).expect("a disk in memory") / UNIT]
    }

    /// The first eight bytes of the block at `at`.
    pub(crate) fn first_word(&self, at: u64) -> [u8; 8] {
        stamp(at, self.generation(at).load(Ordering::Relaxed)).to_le_bytes()
    }

    /// A unit without stamps.
    pub(crate) fn plain_unit() -> Vec<u8> {
        (0..UNIT as u64 / 8).flat_map(|i| mixed(i + 1).to_le_bytes()).collect()
    }

    /// Puts the stamps for the next write of the unit at `at` into `unit`. From then on this is the
    /// expected content.
    pub(crate) fn stamp_next(&self, at: u64, unit: &mut [u8]) {
        let generation = self.generation(at).fetch_add((!self.shared).into(), Ordering::Relaxed);
        let generation = generation + u32::from(!self.shared);
        Self::put_stamps(at, generation, unit);
    }

    /// The expected `len` bytes at `at`, within a unit. `unit` is the content of any unit.
    pub(crate) fn stamp_again<'a>(&self, at: u64, len: u32, unit: &'a mut [u8]) -> &'a [u8] {
        let from = usize::try_from(at % UNIT as u64).expect("less than a unit");
        let part = &mut unit[from..from + len as usize];
        Self::put_stamps(at, self.generation(at).load(Ordering::Relaxed), part);
        part
    }

    fn put_stamps(at: u64, generation: u32, unit: &mut [u8]) {
        for (block, at) in unit.chunks_exact_mut(BLOCK).zip((at..).step_by(BLOCK)) {
            let word = stamp(at, generation);
            block[..8].copy_from_slice(&word.to_le_bytes());
            block[BLOCK - 8..].copy_from_slice(&(!word).to_le_bytes());
        }
    }

    /// The offsets of all units and their expected content, in order.
    fn each_unit(
        &self,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut unit = Self::plain_unit();
        for at in (0..self.size()).step_by(UNIT) {
            Self::put_stamps(at, self.generation(at).load(Ordering::Relaxed), &mut unit);
            visit(at, &unit)?;
        }
        Ok(())
    }

    /// Writes the whole disk through `session`.
    pub(crate) fn fill(&self, session: &mut Session) -> Result<(), Failure> {
        if session.size != self.size() {
            return Err(format!(
                "the export has {} bytes where {} were asked for",
                session.size,
                self.size()
            )
            .into());
        }
        self.each_unit(|at, unit| session.write(at, unit))
    }

    /// Reads the whole disk through `session` and compares every byte.
    pub(crate) fn verify(&self, session: &mut Session) -> Result<(), Failure> {
        let mut got = vec![0; UNIT];
        self.each_unit(|at, unit| {
            session.read(at, &mut got)?;
            match got.iter().zip(unit).position(|(got, wanted)| got != wanted) {
                None => Ok(()),
                Some(i) => Err(format!(
                    "byte {} of the disk reads as {:#04x}, not as {:#04x} as it was written",
                    at + i as u64,
                    got[i],
                    unit[i]
                )
                .into()),
            }
        })
    }

    /// Drops a file from the page cache.
    pub(crate) fn forget_file(path: &Path) -> Result<(), Failure> {
        let file = File::open(path)?;
        file.sync_data()?;
        Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }

    /// Writes the whole disk to a file, which is then in the page cache and on the medium.
    pub(crate) fn write_file(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error| format!("writing {}: {error}", path.display());
        let mut file = File::create(path).map_err(failed)?;
        self.each_unit(|_, unit| Ok(file.write_all(unit).map_err(failed)?))?;
        // Writeback of dirty pages would disturb the measurement.
        Ok(file.sync_all().map_err(failed)?)
    }
}
