//! Disks that are made when a client first names them, and kept: nbdkit-ondemand-plugin(1).
//!
//! One client at a time has a disk. The disk is locked as nbdkit locks it, so that both may serve the same directory.
//! Clients of this process wait for each other in a queue. Only the first of them polls for the lock, because the kernel
//! does not say when it becomes free.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, RenameFlags, openat, renameat2},
    sys::stat::Mode,
};
use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

use super::{
    Entry, SIZE,
    made::{
        COMMAND, LABEL, MAX_TOTAL, Made, MadeError, Maker, Place, TYPE, VARIABLE, failed, refused,
    },
};
use crate::{
    exports::{Exports, LISTED, Listed, Listing, OpenError, Opened, Permit},
    params::{Key, Params},
    shell,
    stack::{BuildError, Stack},
    sys,
};
use disk::{Disk, FileDisk, Kind, file::Options};

/// The file name of the export with the empty name.
const DEFAULT: &str = "default";
/// NAME_MAX.
const LONGEST: usize = 255;
/// The pause between attempts to lock, at first and at most, while another process has the lock.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

pub(super) const ENTRY: Entry = Entry {
    name: "ondemand",
    about: "A filesystem per export name, made when a client first opens it, and kept",
    keys: &[
        SIZE,
        Key::once("dir", "PATH", "The directory of the filesystems"),
        Key::once(
            "wait",
            "BOOL",
            "Wait for the client that has the disk, instead of refusing [default: false]",
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
struct OnDemand(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    directory: OwnedFd,
    wait: bool,
    maker: Maker,
    /// Queues of the clients that want the same disk, by its name.
    queues: Mutex<HashMap<String, Weak<Queue<()>>>>,
}

/// The result of opening a name.
enum Found {
    Nothing,
    /// Another process has the disk.
    Taken(OwnedFd),
    Locked(OwnedFd),
}

/// A directory for a disk that is being made. Its name has a dot, so it is no export.
struct Workshop(PathBuf);

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove the directory {}: {error}", self.0.display());
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
        let wait = params.switch("wait")?.unwrap_or(false);
        let queues = Mutex::default();
        Ok(Self(Arc::new(Inner { path, directory, wait, maker, queues })))
    }
}

impl Inner {
    fn list(&self) -> io::Result<Vec<Listed>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // NBD's names are UTF-8, so a client cannot ask for another name.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let can_be_had = file_name(&name) == Some(&name) && name != DEFAULT;
            if can_be_had && entry.file_type()?.is_file() {
                names.insert(name);
            }
            if names.len() > LISTED {
                names.pop_last();
            }
        }
        let names = std::iter::once(String::new()).chain(names);
        Ok(names.map(|name| Listed { name, description: None }).collect())
    }

    /// Opens the file of an export.
    fn file(&self, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.directory, name, flags, Mode::empty())
    }

    /// Bytes of all disks in the directory.
    fn total(&self) -> io::Result<u64> {
        let mut total = 0_u64;
        for entry in fs::read_dir(&self.path)? {
            let found = entry?.metadata()?;
            total = total.saturating_add(if found.is_file() { found.len() } else { 0 });
        }
        Ok(total)
    }

    /// Waits for the client's turn among the clients of this process.
    async fn turn(&self, name: &str) -> Result<OwnedMutexGuard<()>, OpenError> {
        let queue = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            queues.retain(|_, queue| queue.strong_count() > 0);
            let queue = queues.get(name).and_then(Weak::upgrade).unwrap_or_default();
            queues.insert(name.to_owned(), Arc::downgrade(&queue));
            queue
        };
        if self.wait {
            return Ok(queue.lock_owned().await);
        }
        queue.try_lock_owned().map_err(|_| is_taken(name))
    }

    fn find(&self, name: &str) -> Result<Found, OpenError> {
        match self.file(name, OFlag::O_RDWR | OFlag::O_NONBLOCK) {
            Ok(file) => lock(file),
            Err(Errno::ENOENT) => Ok(Found::Nothing),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Reserves space for a disk, and makes the directory where it is made.
    fn prepare(&self) -> Result<(Workshop, Place), OpenError> {
        // Disks in the directory are counted there, not by the reservation.
        let place = self.maker.reserve(self.total().map_err(failed)?)?;
        let template = self.path.join(".newXXXXXX");
        let workshop = sys::process::private_directory(&template).map(Workshop).map_err(failed)?;
        Ok((workshop, place))
    }

    /// Moves a new disk to its name. Another process may have made one meanwhile.
    fn put(&self, name: &str, workshop: &Workshop, mut place: Place) -> Result<(), OpenError> {
        let disk = workshop.0.join(name);
        let made = File::open(&disk).map_err(failed)?;
        place.resize(made.metadata().map_err(failed)?.len(), self.total().map_err(failed)?)?;
        // Synced first, so that a crash of the machine leaves a whole disk or none.
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
}

impl OnDemand {
    /// Runs `work` on a thread where it may block.
    async fn blocking<T>(
        &self,
        permit: &Permit,
        work: impl FnOnce(&Inner) -> T + Send + 'static,
    ) -> Result<T, OpenError>
    where
        T: Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        Ok(permit.blocking(move || work(&inner)).await?)
    }

    /// Makes the disk of this name, whole or not at all.
    async fn make(&self, name: &str, permit: &Permit) -> Result<(), OpenError> {
        let permission = shell::turn(permit.tenant()).await;
        let (workshop, place) = self.blocking(permit, Inner::prepare).await??;
        let disk = workshop.0.join(name);
        let held = self.0.maker.make(&permission, &disk, (workshop, place)).await?;
        let name = name.to_owned();
        let put = move |inner: &Inner| {
            let _permission = permission;
            let (workshop, place) = held;
            inner.put(&name, &workshop, place)
        };
        self.blocking(permit, put).await?
    }

    /// Takes the lock of the disk. nbdkit uses the same lock.
    async fn lock(&self, name: &str, permit: &Permit) -> Result<OwnedFd, OpenError> {
        let find = || {
            let name = name.to_owned();
            self.blocking(permit, move |inner| inner.find(&name))
        };
        let mut found = find().await??;
        if matches!(found, Found::Nothing) {
            self.make(name, permit).await?;
            found = find().await??;
        }
        let [mut pause, longest] = PAUSES;
        loop {
            let file = match found {
                Found::Locked(file) => return Ok(file),
                Found::Nothing => return Err(failed(Errno::ENOENT.into())),
                Found::Taken(_) if !self.0.wait => return Err(is_taken(name)),
                Found::Taken(file) => file,
            };
            tokio::time::sleep(pause).await;
            pause = longest.min(pause * 2);
            found = self.blocking(permit, move |_| lock(file)).await??;
        }
    }

    async fn get(&self, export: &str, permit: &Permit) -> Result<Arc<dyn Disk>, OpenError> {
        let Some(name) = file_name(export) else { return Err(OpenError::Unknown) };
        let turn = self.0.turn(name).await?;
        let lock = self.lock(name, permit).await?;
        let options = Options { read_only: permit.opening().read_only, ..Options::default() };
        let name = name.to_owned();
        let payer = permit.tenant().number();
        let open = move |inner: &Inner| {
            let path = inner.path.join(&name);
            let disk = FileDisk::open_by(&path, options, &|flags| inner.file(&name, flags));
            // The lock is dropped before the turn, so that the next client finds it free.
            let disk = disk.map_err(|error| OpenError::because(&error))?.charged_to(payer);
            Ok(Arc::new(Made::new(disk, (lock, turn))) as _)
        };
        self.blocking(permit, open).await?
    }
}

fn lock(file: OwnedFd) -> Result<Found, OpenError> {
    match sys::lock::try_exclusive(&file) {
        Ok(()) => Ok(Found::Locked(file)),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(Found::Taken(file)),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn is_taken(name: &str) -> OpenError {
    refused(Kind::Denied, MadeError::Locked(name.to_owned()))
}

/// The file name of an export; `None` if no file can have the name.
fn file_name(export: &str) -> Option<&str> {
    match export {
        "" => Some(DEFAULT),
        _ if export.len() > LONGEST => None,
        _ if export.contains(['.', '/', ':', '\\']) || export.chars().any(char::is_control) => None,
        name => Some(name),
    }
}

impl Exports for OnDemand {
    fn list<'a>(&'a self, permit: &'a Permit) -> Listing<'a> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { permit.blocking(move || inner.list()).await? })
    }

    fn open<'a>(&'a self, name: &'a str, permit: &'a Permit) -> Opened<'a> {
        Box::pin(self.get(name, permit))
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        file_name(name).unwrap_or(name)
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
