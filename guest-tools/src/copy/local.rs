//! The local sides of a copy: files, block devices and streams. The caller puts offsets into errors. This module
//! knows how a file makes zeroes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use nbd_client::Extent;
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, FcntlArg, OFlag, PosixFadviseAdvice, fallocate, fcntl, posix_fadvise},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{Whence, lseek},
};

use super::error::CopyError;
use crate::{
    stamp::{Change, Stamp},
    sys,
};
use nbd::wire::ExtentFlags;

/// The size in bytes to ask for where a pipe may be larger than the usual 64 KiB.
const PIPE: i32 = 1 << 20;

/// The kind of a local file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Block,
    /// Read or written once, in order.
    Stream,
}

/// An open local file.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) name: String,
    pub(super) file: File,
    pub(super) kind: Kind,
    /// The size in bytes; 0 for a stream.
    pub(super) size: u64,
    /// The file's state when it was opened. A pipe has none.
    stamp: Option<Stamp>,
    /// Its path, if this copy created the file.
    made: Option<PathBuf>,
    /// Ranges to zero must be multiples of this number of bytes.
    sector: u64,
    /// The kernel has reported that it does not support the operation.
    cannot_punch: AtomicBool,
    cannot_zero: AtomicBool,
    cannot_zero_out: AtomicBool,
    cannot_map: AtomicBool,
}

impl Local {
    fn new(file: File, name: String) -> Result<Self, CopyError> {
        let wrong = |source| CopyError::local("look at", &name, source);
        let facts = file.metadata().map_err(wrong)?;
        let found = facts.file_type();
        if found.is_dir() {
            return Err(CopyError::Directory(name));
        }
        let stamp = Stamp::of(&file).map_err(wrong)?;
        let size = stamp.map_or(0, |stamp| stamp.size);
        let (mut kind, mut sector) = (Kind::Stream, 1);
        if found.is_file() {
            kind = Kind::Regular;
        } else if found.is_block_device() {
            kind = Kind::Block;
            sector = sys::sector_size(&file).map_or(4096, u64::from);
        } else {
            // A larger pipe carries more at once.
            fcntl(&file, FcntlArg::F_SETPIPE_SZ(PIPE)).ok();
        }
        let unknown = || AtomicBool::new(false);
        Ok(Self {
            name,
            file,
            kind,
            size,
            stamp,
            made: None,
            sector,
            cannot_punch: unknown(),
            cannot_zero: unknown(),
            cannot_zero_out: unknown(),
            cannot_map: unknown(),
        })
    }

    /// Opens a file for reading.
    pub(super) fn source(path: &Path) -> Result<Self, CopyError> {
        let name = path.display().to_string();
        let opened = File::open(path);
        let file =
            opened.map_err(|e| CopyError::Open { name: name.clone(), hint: "", source: e })?;
        let mut local = Self::new(file, name)?;
        // A file that the kernel generates when it is read, as in /proc, reports a size of 0.
        let is_empty = local.kind == Kind::Regular && local.size == 0;
        if is_empty && local.file.read_at(&mut [0], 0).is_ok_and(|n| n > 0) {
            (local.kind, local.stamp) = (Kind::Stream, None);
        }
        // A hint: the file is read almost in the order of its offsets.
        posix_fadvise(&local.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL).ok();
        Ok(local)
    }

    /// Opens a file for writing. Nothing is changed yet, except that a missing file is created.
    pub(super) fn target(path: &Path) -> Result<Self, CopyError> {
        let name = path.display().to_string();
        let opened = OpenOptions::new().write(true).create_new(true).open(path);
        let made = opened.is_ok().then(|| path.to_owned());
        let opened = match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let block = path.metadata().is_ok_and(|facts| facts.file_type().is_block_device());
                // For a block device O_EXCL fails while the device is mounted or part of another one.
                let flags = if block { OFlag::O_EXCL.bits() } else { 0 };
                OpenOptions::new().write(true).custom_flags(flags).open(path)
            }
            other => other,
        };
        let file = opened.map_err(|source| {
            let busy = source.kind() == io::ErrorKind::ResourceBusy;
            let hint = if busy { " (it is mounted or in use: unmount it first)" } else { "" };
            CopyError::Open { name: name.clone(), hint, source }
        })?;
        Ok(Self { made, ..Self::new(file, name)? })
    }

    /// Standard input or output, of whatever kind: read or written in order.
    pub(super) fn stdio(stream: impl AsFd, name: &str) -> Result<Self, CopyError> {
        let name = name.to_owned();
        let open = sys::was_open(stream.as_fd());
        let cloned = open.and_then(|()| stream.as_fd().try_clone_to_owned());
        let file = cloned.map_err(|source| CopyError::local("open", &name, source))?;
        let local = Self::new(File::from(file), name)?;
        Ok(Self { kind: Kind::Stream, size: 0, ..local })
    }

    /// Fails if the source was changed while it was read, because the copy may then mix several contents. Bytes
    /// that were cut off read as a hole, and bytes that were added are not read.
    pub(super) fn is_unchanged(&self) -> Result<(), CopyError> {
        let Some(before) = self.stamp else { return Ok(()) };
        match before.changed(&self.file) {
            Ok(None) => Ok(()),
            Ok(Some(change)) => Err(CopyError::Changed(self.name.clone(), change)),
            Err(source) => Err(CopyError::local("look at", &self.name, source)),
        }
    }

    /// Fails if another process has truncated or extended the destination.
    pub(super) fn has_size(&self, due: u64) -> Result<(), CopyError> {
        let facts = self.file.metadata();
        let facts = facts.map_err(|source| CopyError::local("look at", &self.name, source))?;
        if self.kind != Kind::Regular || facts.len() == due {
            return Ok(());
        }
        let change = Change::Size { before: due, now: facts.len() };
        Err(CopyError::Changed(self.name.clone(), change))
    }

    /// Truncates a file and gives it the length of the source. A device stays as it is.
    pub(super) fn prepare(&self, size: u64) -> Result<(), CopyError> {
        if self.kind != Kind::Regular {
            return Ok(());
        }
        // An impossible length is found out while the old content still exists.
        let grows = self.file.metadata().is_ok_and(|facts| facts.len() < size);
        let grown = if grows { self.file.set_len(size) } else { Ok(()) };
        let done = grown.and_then(|()| self.file.set_len(0)).and_then(|()| self.file.set_len(size));
        done.map_err(|source| CopyError::local("set the length of", &self.name, source))
    }

    pub(super) fn read(&self, at: u64, room: &mut [u8]) -> Result<(), CopyError> {
        let range = (at, room.len() as u64);
        self.file.read_exact_at(room, at).map_err(|source| {
            let source = match source.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::other("it ends before that by now"),
                _ => source,
            };
            CopyError::at("read", range, &self.name, source)
        })
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), CopyError> {
        let range = (at, bytes.len() as u64);
        let written = match self.kind {
            Kind::Stream => write_to_stream(&self.file, bytes),
            _ => self.file.write_all_at(bytes, at),
        };
        written.map_err(|source| CopyError::at("write", range, &self.name, source))
    }

    /// Makes a range zeroes without writing them. Returns false if that is not possible.
    ///
    /// A regular file is zeroes already (`prepare`). BLKDISCARD is not used, because discarded bytes may read as
    /// anything.
    pub(super) fn zero(&self, at: u64, len: u64, allocate: bool) -> Result<bool, CopyError> {
        let range = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let call = |mode| fallocate(&self.file, mode, range(at), range(len));
        let mode = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let tries = match self.kind {
            Kind::Regular if !allocate => return Ok(true),
            Kind::Regular => able(&self.cannot_zero, || call(FallocateFlags::empty())),
            Kind::Stream => return Ok(false),
            Kind::Block if !(at | len).is_multiple_of(self.sector) => return Ok(false),
            Kind::Block => {
                let punch = || call(mode | FallocateFlags::FALLOC_FL_PUNCH_HOLE);
                let zero = || call(mode | FallocateFlags::FALLOC_FL_ZERO_RANGE);
                // Kernels before 4.9 have no fallocate for devices.
                let zero_out = || sys::zero_out(&self.file, at, len);
                let punched = if allocate { Ok(false) } else { able(&self.cannot_punch, punch) };
                match punched {
                    Ok(false) => match able(&self.cannot_zero, zero) {
                        Ok(false) => able(&self.cannot_zero_out, zero_out),
                        other => other,
                    },
                    other => other,
                }
            }
        };
        tries.map_err(|errno| CopyError::at("zero", (at, len), &self.name, errno.into()))
    }

    /// Returns data and holes of `at..end`, in order and without gaps.
    pub(super) fn map(&self, at: u64, end: u64) -> Result<Vec<Extent>, CopyError> {
        let all = [Extent { at, len: end - at, flags: ExtentFlags::empty() }];
        if self.kind != Kind::Regular || self.cannot_map.load(Ordering::Relaxed) {
            return Ok(all.into());
        }
        let seek = |from: u64, whence| {
            let from = i64::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
            lseek(&self.file, from, whence).map(|found| u64::try_from(found).unwrap_or(0))
        };
        let mut extents = Vec::new();
        let mut from = at;
        while from < end {
            let data = match seek(from, Whence::SeekData) {
                Ok(data) => data.clamp(from, end),
                // There is only a hole from here on, or the file ends before this now.
                Err(Errno::ENXIO) => {
                    self.is_unchanged()?;
                    end
                }
                Err(_) => {
                    self.cannot_map.store(true, Ordering::Relaxed);
                    return Ok(all.into());
                }
            };
            let hole = ExtentFlags::HOLE | ExtentFlags::ZERO;
            if data > from {
                extents.push(Extent { at: from, len: data - from, flags: hole });
            }
            if data == end {
                break;
            }
            from = seek(data, Whence::SeekHole).map_or(end, |hole| hole.clamp(data + 1, end));
            extents.push(Extent { at: data, len: from - data, flags: ExtentFlags::empty() });
        }
        Ok(extents)
    }

    /// Gives a file the length `size`, including a hole at the end.
    pub(super) fn lengthen(&self, size: u64) -> Result<(), CopyError> {
        if self.kind != Kind::Regular {
            return Ok(());
        }
        let done = self.file.set_len(size);
        done.map_err(|source| CopyError::local("set the length of", &self.name, source))
    }

    /// Makes the written bytes durable. Returns false if they cannot be.
    pub(super) fn flush(&self) -> Result<bool, CopyError> {
        let failed = |source| CopyError::local("flush", &self.name, source);
        let durable = sync(&self.file).map_err(failed)?;
        self.made.as_deref().map_or(Ok(()), sync_name).map_err(failed)?;
        Ok(durable)
    }

    /// Drops the page cache where the kernel allows it, so that the next read comes from the disk.
    pub(super) fn forget(&self) {
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).ok();
    }
}

/// Makes durable what was written to a regular file or block device; other files store nothing. Returns whether it
/// is durable.
pub(crate) fn sync(file: &File) -> io::Result<bool> {
    let kind = file.metadata()?.file_type();
    let keeps = kind.is_file() || kind.is_block_device();
    if keeps {
        file.sync_all()?;
    }
    Ok(keeps)
}

/// Makes a file's name durable. If the directory cannot be read, or its filesystem has no such operation, that is
/// left to the kernel.
pub(crate) fn sync_name(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Ok(directory) = File::open(parent.unwrap_or_else(|| Path::new("."))) else { return Ok(()) };
    match directory.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Writes all bytes, even to a non-blocking stream (O_NONBLOCK).
fn write_to_stream(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE).ok();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes the call unless it is known to be unsupported. Returns false if it is unsupported.
fn able(cannot: &AtomicBool, call: impl FnOnce() -> Result<(), Errno>) -> Result<bool, Errno> {
    if cannot.load(Ordering::Relaxed) {
        return Ok(false);
    }
    match call() {
        Ok(()) => Ok(true),
        Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS | Errno::EINVAL | Errno::ENODEV) => {
            cannot.store(true, Ordering::Relaxed);
            Ok(false)
        }
        Err(errno) => Err(errno),
    }
}
