//! Disks that stay, each made when a client first names it: nbdkit-ondemand-plugin(1).
//!
//! One client at a time has a disk: it is locked as nbdkit locks it, so that both may serve the same
//! directory.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, RenameFlags, openat, renameat2},
    sys::stat::Mode,
};

use super::{
    Entry, SIZE,
    made::{COMMAND, LABEL, MAX_TOTAL, Made, Maker, Place, TYPE, VARIABLE, failed, refused},
};
use crate::{
    exports::{Exports, Listed, OpenError, Permit},
    recipe::{BuildError, Key, Params, Stack},
    sys,
};
use disk::{Disk, FileDisk, Kind, file::Options};

/// What the export that has no name is called in the directory.
const DEFAULT: &str = "default";
/// NAME_MAX.
const LONGEST: usize = 255;
/// How long a client waits for another with `wait`, at most: a handshake has ended by then.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);

pub(super) const ENTRY: Entry = Entry {
    name: "ondemand",
    about: "A filesystem for each export name, made when it is first asked for, and kept",
    keys: &[
        SIZE,
        Key::once("dir", "PATH", "The directory that the filesystems are in"),
        Key::once(
            "wait",
            "BOOL",
            "Wait for the client that has it, instead of none [default: false]",
        ),
        TYPE,
        LABEL,
        COMMAND,
        MAX_TOTAL,
        VARIABLE,
    ],
    main: Some("size"),
    build: |params, _| OnDemand::parse(params).map(Stack::new),
};

#[derive(Debug)]
struct OnDemand {
    path: PathBuf,
    directory: OwnedFd,
    wait: bool,
    maker: Maker,
}

/// A directory beside the disks for one that is being made: a name with a dot is no export's.
struct Workshop(PathBuf);

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("the directory {} stays behind: {error}", self.0.display());
        }
    }
}

impl OnDemand {
    fn parse(params: &Params<'_>) -> Result<Self, BuildError> {
        let maker = Maker::parse(params)?;
        let path = std::path::absolute(params.needed("dir")?);
        let path = path.map_err(|error| BuildError::Own(Box::new(error)))?;
        let directory = File::open(&path).and_then(|directory| {
            let is_one = directory.metadata()?.is_dir();
            is_one.then_some(directory).ok_or_else(|| io::ErrorKind::NotADirectory.into())
        });
        let directory = directory
            .map_err(|source| BuildError::Directory { path: path.clone(), source })?
            .into();
        Ok(Self { path, directory, wait: params.switch("wait")?.unwrap_or(false), maker })
    }

    /// The file of an export, if it is there.
    fn file(&self, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.directory, name, flags, Mode::empty())
    }

    /// Bytes of all disks that are there.
    fn total(&self) -> io::Result<u64> {
        let mut total = 0_u64;
        for entry in fs::read_dir(&self.path)? {
            let found = entry?.metadata()?;
            total = total.saturating_add(if found.is_file() { found.len() } else { 0 });
        }
        Ok(total)
    }

    /// Makes the disk of that name, whole or not at all. Another may have made it meanwhile.
    fn make(&self, name: &str) -> Result<(), OpenError> {
        // Once it is there, it is counted where it is.
        let mut place: Place = self.maker.reserve(self.total().map_err(failed)?)?;
        let template = self.path.join(".newXXXXXX");
        let workshop = sys::process::private_directory(&template).map(Workshop).map_err(failed)?;
        let disk = workshop.0.join(name);
        self.maker.make(&disk).map_err(failed)?;
        let made = File::open(&disk).map_err(failed)?;
        place.resize(made.metadata().map_err(failed)?.len(), self.total().map_err(failed)?)?;
        // A crash of the machine leaves a disk that is whole, or none.
        made.sync_all().map_err(failed)?;
        let named = renameat2(
            nix::fcntl::AT_FDCWD,
            &disk,
            &self.directory,
            name,
            RenameFlags::RENAME_NOREPLACE,
        );
        match named {
            Ok(()) => nix::unistd::fsync(&self.directory).map_err(|errno| failed(errno.into())),
            Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Takes the lock that the one client has; nbdkit's is the same.
    fn lock(&self, name: &str) -> Result<OwnedFd, OpenError> {
        let file = self.file(name, OFlag::O_RDWR).map_err(|errno| failed(errno.into()))?;
        let begun = Instant::now();
        loop {
            match sys::lock::try_exclusive(&file) {
                Ok(()) => return Ok(file),
                Err(Errno::EAGAIN | Errno::EACCES) if self.wait && begun.elapsed() < PATIENCE => {
                    // The kernel can wait for it too, but not until a time.
                    thread::sleep(PAUSE);
                }
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    let why = format!("{name}: the filesystem is locked by another client");
                    return Err(refused(Kind::Denied, why));
                }
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}

/// The file of an export; `None` where there can be none.
fn file_name(export: &str) -> Option<&str> {
    match export {
        "" => Some(DEFAULT),
        _ if export.len() > LONGEST => None,
        _ if export.contains(['.', '/', ':', '\\']) || export.chars().any(char::is_control) => None,
        name => Some(name),
    }
}

impl Exports for OnDemand {
    fn list(&self, _: &Permit) -> io::Result<Vec<Listed>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // NBD's names are UTF-8: another name cannot be asked for.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let can_be_had = file_name(&name) == Some(&name) && name != DEFAULT;
            if can_be_had && entry.file_type()?.is_file() {
                names.push(name);
            }
        }
        names.sort();
        let names = std::iter::once(String::new()).chain(names);
        Ok(names.map(|name| Listed { name, description: None }).collect())
    }

    fn open(&self, export: &str, permit: &Permit) -> Result<Arc<dyn Disk>, OpenError> {
        let Some(name) = file_name(export) else { return Err(OpenError::Unknown) };
        match self.file(name, OFlag::O_PATH) {
            Ok(_) => {}
            Err(Errno::ENOENT) => self.make(name)?,
            Err(errno) => return Err(failed(errno.into())),
        }
        let lock = self.lock(name)?;
        let options = Options { read_only: permit.opening().read_only, ..Options::default() };
        let path = self.path.join(name);
        let disk = FileDisk::open_by(&path, options, &|flags| self.file(name, flags));
        let disk = disk.map_err(|error| failed(error.into()))?;
        Ok(Arc::new(Made::new(disk, lock)))
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        file_name(name).unwrap_or(name)
    }

    fn blocking(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn names_stay_in_the_directory() {
        assert_eq!(file_name(""), Some("default"));
        assert_eq!(file_name("a b-c"), Some("a b-c"));
        for none in [".", "..", "a/b", "/etc/passwd", "a:b", "x.img", ".new", "a\nb", "a\\b"] {
            assert_eq!(file_name(none), None, "{none:?}");
        }
        assert!(file_name(&"x".repeat(255)).is_some() && file_name(&"x".repeat(256)).is_none());
    }
}
