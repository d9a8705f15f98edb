//! What a file knows of its holes, and reading ahead.
//!
//! SEEK_DATA and SEEK_HOLE move the file's own position, which nothing here uses.

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

/// Extents in an answer.
const EXTENTS: usize = 8192;
/// How long extents are looked for; the answer is shorter then, and the client asks for the rest.
const LOOKS_FOR: Duration = Duration::from_millis(2);
/// Extents between two looks at the clock.
const BETWEEN_LOOKS: usize = 32;
const BLOCK: u64 = 4096;

impl Opened {
    /// The first byte at or after the range's start that is not known to be in a hole; at most the
    /// range's end.
    pub(super) fn data_from(&self, range: &Range<u64>) -> io::Result<u64> {
        let data = match lseek(&self.file, signed(range.start)?, Whence::SeekData) {
            Ok(data) => data.cast_unsigned(),
            // No data up to the end of the file; which is not the end of the disk if it shrank.
            Err(Errno::ENXIO) => self.file.metadata()?.size(),
            // The filesystem does not tell: then all is data.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => range.start,
            Err(error) => return Err(error.into()),
        };
        Ok(data.clamp(range.start, range.end))
    }

    /// The end of the data that the range starts with; at most the range's end.
    fn data_until(&self, range: &Range<u64>) -> io::Result<u64> {
        let end = match lseek(&self.file, signed(range.start)?, Whence::SeekHole) {
            Ok(end) => end.cast_unsigned(),
            Err(Errno::ENXIO | Errno::EINVAL | Errno::EOPNOTSUPP) => range.end,
            Err(error) => return Err(error.into()),
        };
        // A hole may have been punched at the start since it was looked at: then it counts as a
        // block of data for now.
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

/// As the kernel counts a file's bytes.
pub(super) fn signed(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}
