//! Opens a file or block device, and finds out its properties.

use std::{
    fs::{File, Metadata},
    io::{self, Seek, SeekFrom},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, PosixFadviseAdvice, open, posix_fadvise},
    sys::{
        stat::Mode,
        statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs},
    },
};
use thiserror::Error;

use super::{
    Abilities, Direct, FileDisk, Held, Inner, Opened,
    edges::Edges,
    shared::{FILES, Shared},
    which,
};
use crate::inode::Inode;
use crate::{DiskInfo, descriptors::Sync, queue::Payer, ring, sys::file as sys};

/// The usual block of a filesystem in bytes, and a unit of O_DIRECT that every file accepts.
const BLOCK: u32 = 4096;
/// The largest preferred block in NBD, in bytes, and the largest sector that is accepted.
const BLOCK_MAX: u32 = 65536;

/// Whether the page cache is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cache {
    /// It is used.
    #[default]
    Default,
    /// It is not used: O_DIRECT.
    None,
}

/// How the file will be read (posix_fadvise(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Advice {
    /// POSIX_FADV_NORMAL.
    #[default]
    Normal,
    /// POSIX_FADV_RANDOM.
    Random,
    /// POSIX_FADV_SEQUENTIAL.
    Sequential,
}

/// Options for opening a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Whether to open it for reading only.
    pub read_only: bool,
    /// Whether the page cache is used.
    pub cache: Cache,
    /// How it will be read.
    pub advice: Advice,
}

/// Why a file was not opened.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file at `path` cannot be opened.
    #[error("cannot open {}{}", .path.display(), hint(.source))]
    Open { path: PathBuf, source: io::Error },
    /// The file at `path` is neither a regular file nor a block device, but `kind`.
    #[error("{} is {kind}: only regular files and block devices can be served", .path.display())]
    Kind { path: PathBuf, kind: &'static str },
    /// The properties of the file at `path` cannot be read.
    #[error("cannot find out the size and kind of {}", .path.display())]
    Look { path: PathBuf, source: io::Error },
    /// The filesystem of the file at `path` has no O_DIRECT.
    #[error(
        "cannot open {} for cache=none: the filesystem that it is on has no O_DIRECT; \
         leave cache=none out", .path.display()
    )]
    NoDirect { path: PathBuf },
    /// Another file took the place of the file at `path` during the open.
    #[error("{} was replaced by another file while it was being opened; try again", .path.display())]
    Replaced { path: PathBuf },
}

impl From<FileError> for io::Error {
    /// The error as an I/O error, with the system's error number if there is one.
    fn from(error: FileError) -> Self {
        match error {
            FileError::Open { source, .. } | FileError::Look { source, .. } => source,
            other => Self::other(other),
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (create it first, for example with truncate -s SIZE)",
        io::ErrorKind::PermissionDenied => " (the agent's user must be allowed to read it)",
        _ => "",
    }
}

/// Opens the same file with given flags. It is called as often as needed.
type Opener<'a> = dyn Fn(OFlag) -> Result<OwnedFd, Errno> + 'a;

impl FileDisk {
    /// Opens the file at `path`, read-only if it cannot be written. Call it for each connection: it opens the file that
    /// is there now, and shares locks and durability with all connections that have the same file or device open.
    pub fn open(path: &Path, options: Options) -> Result<Self, FileError> {
        Self::open_by(path, options, &|flags| open(path, flags, Mode::empty()))
    }

    /// As `open`, with the caller's opener. `path` is for messages.
    pub fn open_by(path: &Path, options: Options, opener: &Opener<'_>) -> Result<Self, FileError> {
        let failed = |errno: Errno| FileError::Open { path: path.to_owned(), source: errno.into() };
        let unseen = |source| FileError::Look { path: path.to_owned(), source };

        // Opening a FIFO or a device of another kind may have an effect. O_PATH has none.
        let found: File = opener(OFlag::O_PATH | OFlag::O_CLOEXEC).map_err(failed)?.into();
        let found = found.metadata().map_err(unseen)?;
        check_kind(path, &found)?;
        let open = |flags: OFlag| -> Result<File, FileError> {
            let file: File = opener(flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY)
                .map_err(|errno| match errno {
                    Errno::EINVAL if flags.contains(OFlag::O_DIRECT) => {
                        FileError::NoDirect { path: path.to_owned() }
                    }
                    errno => failed(errno),
                })?
                .into();
            let now = file.metadata().map_err(unseen)?;
            if identify(&now) == identify(&found) {
                return Ok(file);
            }
            Err(FileError::Replaced { path: path.to_owned() })
        };

        let direct = match options.cache {
            Cache::Default => OFlag::empty(),
            Cache::None => OFlag::O_DIRECT,
        };
        let mut protected = None;
        let (file, access) = if options.read_only {
            (open(direct | OFlag::O_RDONLY)?, OFlag::O_RDONLY)
        } else {
            match open(direct | OFlag::O_RDWR) {
                Err(FileError::Open { source, .. }) if is_write_protected(&source) => {
                    protected = Some(source);
                    (open(direct | OFlag::O_RDONLY)?, OFlag::O_RDONLY)
                }
                other => (other?, OFlag::O_RDWR),
            }
        };
        let inode = identify(&found);
        let member = if let Some(member) = FILES.join(inode) {
            member
        } else {
            // Opened before anything is written by the other descriptor, so that this one gets each error.
            let shared = Shared::new(open(OFlag::O_RDONLY)?, open(OFlag::O_RDONLY)?);
            let identity = which::identity(&file, &found).map_err(unseen)?;
            FILES.join_with(inode, identity, path.display().to_string(), shared)
        };
        let shared = member.witness();
        let read_only = access == OFlag::O_RDONLY;
        let mut opened =
            Opened::new(file, options, read_only, shared.edges.clone()).map_err(unseen)?;
        opened.advise().map_err(unseen)?;
        if options.cache == Cache::None {
            let block = opened.sector.unwrap_or_else(|| BLOCK.into());
            let end = opened.info.size / block * block;
            let tail = if end < opened.info.size { Some((end, open(access)?)) } else { None };
            opened.info.block_preferred = u32::try_from(block).unwrap_or(BLOCK);
            opened.info.can_cache = false;
            opened.direct = Some(Direct { block, tail });
        }
        let opened = shared.share(opened);
        if member.has_lost() {
            // A loss may have been reported meanwhile: this descriptor, opened before, would report it again.
            opened.sync().ok();
        }
        if let Some(why) = protected {
            // Logged only now: a file that cannot be read either is not served at all.
            tracing::warn!(path = %path.display(), "served read-only: {why}");
        }
        Ok(Self(Arc::new(Inner::new(Held { opened, member }, Payer::default()))))
    }
}

impl Opened {
    /// Without O_DIRECT: through the page cache.
    pub(super) fn new(
        mut file: File,
        options: Options,
        mut read_only: bool,
        edges: Edges,
    ) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let device = metadata.file_type().is_block_device();
        let mut info = DiskInfo::plain(metadata.size(), which::identity(&file, &metadata)?);
        let mut sector = None;
        if device {
            read_only |= sys::read_only(&file)?;
            info.size = file.seek(SeekFrom::End(0))?;
            info.block_preferred = preferred(sys::physical_sector(&file).unwrap_or(BLOCK));
            info.rotational = is_rotational(metadata.rdev());
            sector = Some(u64::from(sys::sector(&file)?.clamp(512, BLOCK_MAX)));
        } else {
            let block = u32::try_from(metadata.blksize()).unwrap_or(BLOCK_MAX);
            info.block_preferred = preferred(block);
        }
        let local = device || goes_on_alone(&file);
        let ringed = ring::is_used() && local;
        info.read_only = read_only;
        info.can_trim = !read_only;
        info.can_fast_zero = !read_only;
        info.can_extents = !device;
        let opened = Self {
            file,
            options,
            info,
            sector,
            direct: None,
            edges,
            can: Abilities::default(),
            sparse: AtomicBool::new(true),
            local,
            ringed,
        };
        opened.look_for_holes();
        Ok(opened)
    }

    fn advise(&self) -> io::Result<()> {
        let advice = match self.options.advice {
            Advice::Normal => return Ok(()),
            Advice::Random => PosixFadviseAdvice::POSIX_FADV_RANDOM,
            Advice::Sequential => PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL,
        };
        posix_fadvise(&self.file, 0, 0, advice)?;
        Ok(())
    }
}

/// Whether the filesystem reads and writes past the page cache without a waiting thread. On other filesystems one of the
/// kernel's threads would wait. These are few for all disks, and a filesystem that hangs would delay the others.
fn goes_on_alone(file: &File) -> bool {
    let known = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC];
    fstatfs(file).is_ok_and(|found| known.contains(&found.filesystem_type()))
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let found = metadata.file_type();
    let kind = if found.is_file() || found.is_block_device() {
        return Ok(());
    } else if found.is_dir() {
        "a directory (dir=PATH serves the files in one)"
    } else if found.is_fifo() {
        "a FIFO"
    } else if found.is_socket() {
        "a socket"
    } else if found.is_char_device() {
        "a character device"
    } else {
        "a symbolic link"
    };
    Err(FileError::Kind { path: path.to_owned(), kind })
}

fn identify(metadata: &Metadata) -> Inode {
    if metadata.file_type().is_block_device() {
        Inode { device: metadata.rdev(), inode: None }
    } else {
        Inode { device: metadata.dev(), inode: Some(metadata.ino()) }
    }
}

fn is_write_protected(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY))
}

/// The preferred block: a page of the page cache, or the disk's block if that is larger.
fn preferred(block: u32) -> u32 {
    let block = block.clamp(BLOCK, BLOCK_MAX);
    if block.is_power_of_two() { block } else { BLOCK }
}

/// A property of the kernel's queue of the device. A partition uses the queue of its disk.
fn is_rotational(device: u64) -> bool {
    let (major, minor) = (libc::major(device), libc::minor(device));
    ["queue", "../queue"].iter().any(|queue| {
        let path = format!("/sys/dev/block/{major}:{minor}/{queue}/rotational");
        std::fs::read(path).is_ok_and(|text| text.starts_with(b"1"))
    })
}
