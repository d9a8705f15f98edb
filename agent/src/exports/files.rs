//! Files by their paths (`file PATH` and `split`). They are opened again for each connection, so that the next client sees
//! a file or a device that was resized or replaced.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

use super::{Exports, Listed, Listing, OpenError, Opened, Permit};
use disk::{
    Disk, FileDisk, Payer, SplitDisk,
    file::{FileError, Options},
};

/// How the files form the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// There is one file, and it is the disk.
    Whole,
    /// The files one after the other.
    Joined,
}

/// One disk under every name.
#[derive(Debug)]
pub(crate) struct Files(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: Vec<Source>,
    layout: Layout,
    options: Options,
}

/// How to open one file.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// Descriptors from the start of the agent, and the flags that they were opened with.
    kept: Vec<(OFlag, OwnedFd)>,
}

impl Files {
    /// Opens each file once, so that errors show before a client comes.
    ///
    /// `keep`: this process is about to become another user, who may not be allowed to open the files. The files are kept
    /// open, and if the user is refused, the open descriptor is served.
    ///
    /// # Errors
    /// Why a file cannot be opened.
    pub(crate) fn check(
        paths: &[&Path],
        layout: Layout,
        options: Options,
        keep: bool,
    ) -> Result<Self, FileError> {
        let check = |path: &&Path| Source::check(path, options, keep);
        let sources = paths.iter().map(check).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Inner { sources, layout, options })))
    }

    /// Opens the disk with the current files. This may block.
    pub(crate) fn open_now(&self) -> Result<Arc<dyn Disk>, OpenError> {
        self.0.open(Payer::default())
    }
}

impl Inner {
    fn open(&self, payer: Payer) -> Result<Arc<dyn Disk>, OpenError> {
        let open = |source: &Source| {
            FileDisk::open_by(&source.path, self.options, &|flags| source.open(flags))
                .map(|disk| disk.charged_to(payer))
        };
        let files = self.sources.iter().map(open).collect::<Result<Vec<_>, FileError>>();
        let mut files = files.map_err(|error| OpenError::because(&error))?;
        match self.layout {
            Layout::Whole if files.len() == 1 => Ok(Arc::new(files.remove(0))),
            Layout::Whole | Layout::Joined => match SplitDisk::new(files) {
                Some(disk) => Ok(Arc::new(disk)),
                None => Err(OpenError::because(&TooLong)),
            },
        }
    }
}

/// The files of `split` are together longer than a disk can be.
#[derive(Debug, thiserror::Error)]
#[error("the files are more than 2^63 - 1 bytes together")]
struct TooLong;

impl Source {
    fn check(path: &Path, options: Options, keep: bool) -> Result<Self, FileError> {
        // Absolute, because `--background` changes the working directory to `/`.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let kept = Mutex::new(Vec::new());
        let opener = |flags| {
            let file = open(&path, flags, Mode::empty())?;
            if keep {
                let copy = file.try_clone().map_err(|error| errno(&error))?;
                kept.lock().unwrap_or_else(PoisonError::into_inner).push((flags, copy));
            }
            Ok(file)
        };
        FileDisk::open_by(&path, options, &opener)?;
        let kept = kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Self { path, kept })
    }

    fn open(&self, flags: OFlag) -> Result<OwnedFd, Errno> {
        match open(&self.path, flags, Mode::empty()) {
            Err(refused @ (Errno::EACCES | Errno::EPERM)) => {
                let kept = self.kept.iter().find(|(had, _)| *had == flags).ok_or(refused)?;
                kept.1.try_clone().map_err(|error| errno(&error))
            }
            other => other,
        }
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

impl Exports for Files {
    fn list<'a>(&'a self, _: &'a Permit) -> Listing<'a> {
        let listed = Listed { name: String::new(), description: None };
        Box::pin(std::future::ready(Ok(vec![listed])))
    }

    fn open<'a>(&'a self, _: &'a str, permit: &'a Permit) -> Opened<'a> {
        let inner = Arc::clone(&self.0);
        let payer = permit.tenant().number();
        Box::pin(async move { permit.blocking(move || inner.open(payer)).await? })
    }

    fn canonical<'a>(&'a self, _: &'a str) -> &'a str {
        ""
    }
}

#[cfg(test)]
mod tests;
