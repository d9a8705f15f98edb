//! Detects a change of a file or block device. A file that another process changes while it is read
//! cannot be copied. `copy` and `write` use it.

use std::{
    fmt,
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileTypeExt, MetadataExt},
};

/// The properties of a file or device that change with its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The size, in bytes.
    pub(crate) size: u64,
    /// For a regular file: the time of the last change, in seconds and nanoseconds.
    changed: Option<(i64, i64)>,
}

impl Stamp {
    /// `None` for a file that can be read only once: a pipe has no content to change.
    pub(crate) fn of(file: &File) -> io::Result<Option<Self>> {
        let facts = file.metadata()?;
        let found = facts.file_type();
        if found.is_file() {
            let changed = Some((facts.mtime(), facts.mtime_nsec()));
            return Ok(Some(Self { size: facts.len(), changed }));
        }
        if found.is_block_device() {
            let mut file = file;
            let before = file.stream_position()?;
            let size = file.seek(SeekFrom::End(0))?;
            // It may be standard input, which is read from its current position.
            file.seek(SeekFrom::Start(before))?;
            return Ok(Some(Self { size, changed: None }));
        }
        Ok(None)
    }

    /// How the content has changed since the stamp was taken; `None` if it has not.
    pub(crate) fn changed(self, file: &File) -> io::Result<Option<Change>> {
        Ok(match Self::of(file)? {
            Some(now) if now == self => None,
            Some(Self { size: now, .. }) if now != self.size => {
                Some(Change::Size { before: self.size, now })
            }
            _ => Some(Change::Content),
        })
    }
}

/// How a source has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// In bytes.
    Size {
        before: u64,
        now: u64,
    },
    Content,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { before, now } => {
                write!(f, "had {before} bytes and has {now} now: somebody else changes it")
            }
            Self::Content => f.write_str(
                "was changed while it was copied: what was read may be partly old and partly new",
            ),
        }
    }
}
