//! The files of a directory. Each file is an export by its name (`file dir=PATH`).
//!
//! No file outside the directory can be opened: the kernel resolves every name beneath it, and symbolic links too
//! (openat2, RESOLVE_BENEATH).

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{Mode, SFlag, fstat},
};

use super::{Exports, LISTED, Listed, Listing, OpenError, Opened, Permit};
use disk::{
    Disk, FileDisk, Payer,
    file::{FileError, Options},
};

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    directory: OwnedFd,
    options: Options,
}

impl Directory {
    /// Serves the regular files and block devices in `path`.
    pub(crate) fn open(path: &Path, options: Options) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty())?;
        Ok(Self(Arc::new(Inner { path: path.to_owned(), directory, options })))
    }
}

impl Inner {
    fn open_beneath(&self, name: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        loop {
            match openat2(&self.directory, name, OpenHow::new().flags(flags).resolve(resolve)) {
                // A rename during the call keeps the kernel from deciding. Try again.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // Linux before 5.6, or a container that hides the call: follow no links.
                Err(Errno::ENOSYS) => {
                    let flags = flags | OFlag::O_NOFOLLOW;
                    return nix::fcntl::openat(&self.directory, name, flags, Mode::empty());
                }
                other => return other,
            }
        }
    }

    fn is_disk(&self, name: &str) -> bool {
        let Ok(found) = self.open_beneath(name, OFlag::O_PATH | OFlag::O_CLOEXEC) else {
            return false;
        };
        fstat(&found).is_ok_and(|found| {
            let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
            kind == SFlag::S_IFREG || kind == SFlag::S_IFBLK
        })
    }

    fn names(&self) -> io::Result<BTreeSet<String>> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut directory = Dir::openat(&self.directory, ".", flags, Mode::empty())?;
        let mut names = BTreeSet::new();
        for entry in directory.iter() {
            let entry = entry?;
            // NBD's names are UTF-8, so a client cannot ask for another name.
            let Ok(name) = entry.file_name().to_str() else { continue };
            let is_disk = match entry.file_type() {
                Some(Type::File | Type::BlockDevice) => true,
                Some(Type::Symlink) | None => self.is_disk(name),
                Some(_) => false,
            };
            if is_disk {
                names.insert(name.to_owned());
            }
            if names.len() > LISTED {
                names.pop_last();
            }
        }
        Ok(names)
    }
    fn list(&self) -> io::Result<Vec<Listed>> {
        let names = self.names().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
        })?;
        Ok(names.into_iter().map(|name| Listed { name, description: None }).collect())
    }

    fn open(&self, name: &str, payer: Payer) -> Result<Arc<dyn Disk>, OpenError> {
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return Err(OpenError::Unknown);
        }
        let path = self.path.join(name);
        let disk = FileDisk::open_by(&path, self.options, &|flags| self.open_beneath(name, flags));
        match disk {
            Ok(disk) => Ok(Arc::new(disk.charged_to(payer))),
            Err(error) if is_absence(&error) => Err(OpenError::Unknown),
            Err(error) => Err(OpenError::because(&error)),
        }
    }
}

impl Exports for Directory {
    fn list<'a>(&'a self, permit: &'a Permit) -> Listing<'a> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { permit.blocking(move || inner.list()).await? })
    }

    fn open<'a>(&'a self, name: &'a str, permit: &'a Permit) -> Opened<'a> {
        let (inner, name) = (Arc::clone(&self.0), name.to_owned());
        let payer = permit.tenant().number();
        Box::pin(async move { permit.blocking(move || inner.open(&name, payer)).await? })
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        name
    }
}

/// Whether the error means that there is no such export. A link that leads out of the directory (EXDEV) is no export.
fn is_absence(error: &FileError) -> bool {
    match error {
        FileError::Kind { .. } => true,
        FileError::Open { source, .. } => matches!(
            source.raw_os_error(),
            Some(libc::ENOENT | libc::ELOOP | libc::EXDEV | libc::ENAMETOOLONG | libc::ENOTDIR)
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
