//! The file of `-P`: it contains this process's id while the process runs, and no other agent can take it. No `unsafe`
//! in here.
//!
//! `plan` writes it once the agent is ready. The file is locked before it gets its name, until the process ends in any
//! way. So a file without a lock is stale.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process,
};

use nix::{errno::Errno, fcntl::OFlag};
use thiserror::Error;

use super::lock::try_exclusive;

/// How often agents that start at the same time may replace the file before writing it fails.
const ROUNDS: u32 = 16;
/// Maximum length in bytes of a file that is searched for a number.
const LONGEST: u64 = 64;

/// A file with this process's id. Dropping it removes the file, unless another one took its place.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// Holds the lock. `None` for a device or a pipe, which is written to and not removed.
    file: Option<OwnedFd>,
}

/// Why the file is not written.
#[derive(Debug, Error)]
pub(crate) enum PidFileError {
    /// Another agent runs. This is its id, if the file contains one.
    #[error("{}", holder(*.0))]
    Taken(Option<u32>),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn holder(id: Option<u32>) -> String {
    let process = id.map_or_else(String::new, |id| format!(", process {id}"));
    format!("it is the file of another agent that runs{process}")
}

impl From<Errno> for PidFileError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl PidFile {
    /// Writes the file in one step: a reader finds the old or the new content, and never a part. The file of a running
    /// agent is not replaced.
    pub(crate) fn write(path: &Path) -> Result<Self, PidFileError> {
        let path = std::path::absolute(path)?;
        // Only a regular file may be replaced: `-P /dev/stdout` must not remove a device.
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            // Without O_NONBLOCK, opening a pipe waits for a reader.
            let flags = OFlag::O_NONBLOCK.bits();
            let mut file = OpenOptions::new().write(true).custom_flags(flags).open(&path)?;
            file.write_all(content().as_bytes())?;
            return Ok(Self { path, file: None });
        }
        // Links are resolved, so that the target is replaced and not the link.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", process::id()));
        let new = path.with_file_name(name);
        let placed = locked(&new).and_then(|file| place(&new, &path).map(|()| file));
        if placed.is_err() {
            // The file is useless now, and it may not even exist.
            fs::remove_file(&new).ok();
        }
        Ok(Self { path, file: Some(placed?) })
    }
}

fn content() -> String {
    format!("{}\n", process::id())
}

/// A new file with the content and the lock.
fn locked(path: &Path) -> Result<OwnedFd, PidFileError> {
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o666).open(path)?;
    file.write_all(content().as_bytes())?;
    let file = OwnedFd::from(file);
    match try_exclusive(&file) {
        // A filesystem without locks. The name of the process decides then.
        Ok(()) | Err(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::EINVAL) => Ok(file),
        Err(error) => Err(error.into()),
    }
}

/// Gives the new file its name, unless the existing file is a running agent's.
fn place(new: &Path, path: &Path) -> Result<(), PidFileError> {
    for _ in 0..ROUNDS {
        let old = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(old) => old,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match fs::hard_link(new, path) {
                    // The temporary name is not needed any more.
                    Ok(()) => return Ok(fs::remove_file(new)?),
                    // Another agent was faster.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    // The filesystem has no hard links.
                    Err(_) => return Ok(fs::rename(new, path)?),
                }
            }
            Err(error) => return Err(error.into()),
        };
        let id = id_in(&old);
        let old = OwnedFd::from(old);
        match try_exclusive(&old) {
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(PidFileError::Taken(id)),
            Err(_) if id.is_some_and(is_agent) => return Err(PidFileError::Taken(id)),
            // The file is locked now, or the filesystem has no locks.
            Ok(()) | Err(_) => {}
        }
        // An agent locks a file before it replaces it. Another agent may have replaced this one before the lock was
        // taken.
        if same(&old, path) {
            fs::rename(new, path)?;
            return Ok(());
        }
    }
    Err(PidFileError::Taken(None))
}

/// Whether the path still leads to the file.
fn same(file: &OwnedFd, path: &Path) -> bool {
    let opened = file.try_clone().and_then(|file| File::from(file).metadata());
    let (Ok(opened), Ok(named)) = (opened, fs::metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (named.dev(), named.ino())
}

fn id_in(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    Read::by_ref(&mut file).take(LONGEST).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a process with this id exists and has the same name as this one.
fn is_agent(id: u32) -> bool {
    let name = |id: &str| fs::read(format!("/proc/{id}/comm")).ok();
    id != process::id() && name(&id.to_string()).is_some_and(|found| Some(found) == name("self"))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let Some(file) = &self.file else { return };
        let said = fs::read_to_string(&self.path).is_ok_and(|found| found == content());
        if said
            && same(file, &self.path)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("the pid file {} cannot be removed: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_written_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "an old one, longer than a pid").unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), content());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_pid_file_that_was_replaced_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        for replaced in [false, true] {
            let file = PidFile::write(&path).unwrap();
            if replaced {
                fs::remove_file(&path).unwrap();
            }
            let text = if replaced { content() } else { "1\n".into() };
            fs::write(&path, &text).unwrap();
            drop(file);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_pid_file_that_is_a_device_is_not_replaced() {
        drop(PidFile::write(Path::new("/dev/null")).unwrap());
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_pid_file_through_a_link_replaces_the_target() {
        let directory = tempfile::tempdir().unwrap();
        let (link, target) = (directory.path().join("link"), directory.path().join("target"));
        fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let file = PidFile::write(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), content());
        drop(file);
    }

    /// The lock belongs to the open file and not to the process, so one process can test it.
    #[test]
    fn one_of_two_agents_holds_the_file_and_a_stale_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        let error = PidFile::write(&path).unwrap_err().to_string();
        let named = format!("another agent that runs, process {}", process::id());
        assert!(error.contains(&named), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
        assert_eq!(fs::read_to_string(&path).unwrap(), content());
        // The state after an agent was killed: its lock is gone, and its file is there.
        let text = content();
        drop(file);
        fs::write(&path, text).unwrap();
        PidFile::write(&path).unwrap();
    }
}
