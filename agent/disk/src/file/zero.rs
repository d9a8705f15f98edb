//! Trims and zeroes: by punching holes if possible, else by zeroing in the kernel, else by writing zeroes.

use std::{io, ops::Range, sync::atomic::Ordering};

use nix::fcntl::{FallocateFlags, fallocate};

use super::{Ability, Opened, extents::signed};
use crate::{
    ranges::{cuts, length, whole},
    sys::file::{self as sys, Until},
    zeroed,
};

/// The zeroes that are written where the kernel has no better way.
const ZEROES: usize = 64 * 1024;
/// Most bytes of zeroes in one write.
const STRIDE: u64 = 1 << 20;

impl Opened {
    /// Trims whole sectors of a device, or any range of a file. Succeeds without an effect where trimming is not
    /// supported, since a trim is only advice.
    pub(super) fn trim(&self, range: &Range<u64>) -> io::Result<()> {
        let Some(sector) = self.sector else { return self.punch(range).map(drop) };
        let [_, middle, _] = whole(range, sector);
        if !middle.is_empty() {
            let (at, len) = (middle.start, middle.end - middle.start);
            self.can.discard.with(|| sys::discard(&self.file, at, len))?;
        }
        Ok(())
    }

    /// Makes the range zero. With `fast`, fails with EOPNOTSUPP before anything has changed if
    /// zeroes would have to be written.
    pub(super) fn zero(&self, range: &Range<u64>, may_trim: bool, fast: bool) -> io::Result<()> {
        let [before, middle, after] = whole(range, self.sector.unwrap_or(1));
        if middle.is_empty() || self.zero_in_kernel(&middle, may_trim, fast)? {
            // The edges are shorter than a sector, which takes no time to write.
            self.write_zeroes(before)?;
            return self.write_zeroes(after);
        }
        if fast {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        self.write_zeroes(range.clone())
    }

    /// Whether there is a way to zero without writing that the kernel has not refused yet.
    pub(super) fn zeroes_in_kernel(&self) -> bool {
        let refused = |ability: &Ability| ability.refused.load(Ordering::Relaxed);
        !(refused(&self.can.punch) && refused(&self.can.zero_range))
    }

    /// False if the kernel does not support it. The bytes then have their old values or are zero.
    fn zero_in_kernel(&self, range: &Range<u64>, may_trim: bool, fast: bool) -> io::Result<bool> {
        if may_trim && self.punch(range)? {
            return Ok(true);
        }
        // For a device the kernel may write zeroes, and does not say so.
        let device = self.sector.is_some();
        let zero_range = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if !(device && fast) && self.allocate(&self.can.zero_range, range, zero_range)? {
            return Ok(true);
        }
        if device || self.can.allocate.refused.load(Ordering::Relaxed) || !self.punch(range)? {
            return Ok(false);
        }
        // The bytes are zero by now; only the space may be missing.
        let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(self.allocate(&self.can.allocate, range, keep_size)? || fast)
    }

    /// False if the filesystem or the device has no holes.
    fn punch(&self, range: &Range<u64>) -> io::Result<bool> {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        self.sparse.store(true, Ordering::Relaxed);
        self.allocate(&self.can.punch, range, mode)
    }

    fn allocate(
        &self,
        ability: &Ability,
        range: &Range<u64>,
        mode: FallocateFlags,
    ) -> io::Result<bool> {
        let (at, len) = (signed(range.start)?, signed(range.end - range.start)?);
        let call = || Ok(fallocate(&self.file, mode, at, len)?);
        let done = if let Some(direct) = &self.direct {
            direct.between_writes(&self.edges, range, || ability.with(call))
        } else {
            let _together = self.edges.together();
            ability.with(call)
        };
        Ok(done?.is_some())
    }

    fn write_zeroes(&self, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let zeroes = zeroed(ZEROES.min(length(&(0..range.end - range.start))))?;
        for part in cuts(range, STRIDE) {
            let slices: Vec<_> = cuts(0..part.end - part.start, zeroes.len() as u64)
                .map(|cut| &zeroes[..length(&cut)])
                .collect();
            self.write(part.start, &slices, Until::Taken)?;
        }
        Ok(())
    }
}
