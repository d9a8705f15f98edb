//! The holes of a file, and reading ahead.
//!
//! SEEK_DATA and SEEK_HOLE move the file's position, which this crate does not use.

use std::{
    io,
    ops::Range,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{PosixFadviseAdvice, posix_fadvise},
    unistd::{Whence, lseek},
};

use super::Opened;
use crate::{Answer, Extent};

/// Most extents in an answer.
const EXTENTS: usize = 8192;
/// The time after which the search for extents ends. The answer is shorter then, and the client asks for the rest.
const LOOKS_FOR: Duration = Duration::from_millis(2);
/// Extents between two readings of the clock.
const BETWEEN_LOOKS: usize = 32;
const BLOCK: u64 = 4096;

impl Opened {
    /// The first byte at or after the start of the range that is not known to be in a hole, at most the end of the range.
    pub(super) fn data_from(&self, range: &Range<u64>) -> io::Result<u64> {
        let data = match lseek(&self.file, signed(range.start)?, Whence::SeekData) {
            Ok(data) => data.cast_unsigned(),
            // There is no data up to the end of the file. If the file was truncated, that is not the end of the disk.
            Err(Errno::ENXIO) => self.file.metadata()?.size(),
            // The filesystem does not know, so everything counts as data.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => range.start,
            Err(error) => return Err(error.into()),
        };
        Ok(data.clamp(range.start, range.end))
    }

    /// The end of the data at the start of the range, at most the end of the range.
    fn data_until(&self, range: &Range<u64>) -> io::Result<u64> {
        let end = match lseek(&self.file, signed(range.start)?, Whence::SeekHole) {
            Ok(end) => end.cast_unsigned(),
            Err(Errno::ENXIO | Errno::EINVAL | Errno::EOPNOTSUPP) => range.end,
            Err(error) => return Err(error.into()),
        };
        // A hole may have been punched at the start since the first call. It counts as a block of data for now.
        Ok(if end > range.start { end } else { range.start + BLOCK }.min(range.end))
    }

    pub(super) fn extents(
        &self,
        range: &Range<u64>,
        one: bool,
        answer: &mut Answer,
    ) -> io::Result<()> {
        if self.sector.is_some() {
            let len = range.end - range.start;
            answer.extents.push(Extent { len, hole: false, zero: false });
            return Ok(());
        }
        let most = if one { 1 } else { EXTENTS };
        let mut rest = range.clone();
        let started = Instant::now();
        while !rest.is_empty() && answer.extents.len() < most {
            let found = answer.extents.len();
            if found > 0 && found.is_multiple_of(BETWEEN_LOOKS) && started.elapsed() >= LOOKS_FOR {
                break;
            }
            let data = self.data_from(&rest)?;
            let hole = data > rest.start;
            let end = if hole { data } else { self.data_until(&rest)? };
            answer.extents.push(Extent { len: end - rest.start, hole, zero: hole });
            rest.start = end;
        }
        Ok(())
    }

    /// Starts to read the range into the page cache.
    pub(super) fn prefetch(&self, range: &Range<u64>) -> io::Result<()> {
        if self.direct.is_some() {
            return Ok(());
        }
        let (at, len) = (signed(range.start)?, signed(range.end - range.start)?);
        posix_fadvise(&self.file, at, len, PosixFadviseAdvice::POSIX_FADV_WILLNEED)?;
        Ok(())
    }
}

/// An offset as the kernel's signed type.
pub(super) fn signed(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}
