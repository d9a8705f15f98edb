//! The file of `-P`: this process's id, for as long as it runs, and nobody else's meanwhile. No `unsafe` in
//! here.
//!
//! `plan` writes it once the agent is ready. The file is locked from before it has its name until the
//! process ends, however it ends: a file that is not locked is stale.

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

/// How often two agents that start at once may change the file under each other.
const ROUNDS: u32 = 16;
/// Longest file that is read for a number, bytes.
const LONGEST: u64 = 64;

/// A file with this process's id; removed when dropped, if it is still ours.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// With the lock. `None`: a device or a pipe, which is written to and left alone.
    file: Option<OwnedFd>,
}

/// Why it is not written.
#[derive(Debug, Error)]
pub enum PidFileError {
    /// Of the process that the file names, if it names one.
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
    /// Writes it in one step: who reads it finds the old content or the new, never half. The file of an
    /// agent that runs is not replaced.
    pub(crate) fn write(path: &Path) -> Result<Self, PidFileError> {
        let path = std::path::absolute(path)?;
        // Only a regular file may be replaced: `-P /dev/stdout` must not remove a device.
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            // To open a pipe that nobody reads would wait.
            let flags = OFlag::O_NONBLOCK.bits();
            let mut file = OpenOptions::new().write(true).custom_flags(flags).open(&path)?;
            file.write_all(content().as_bytes())?;
            return Ok(Self { path, file: None });
        }
        // A link is followed, so that it is not the link that is replaced.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", process::id()));
        let new = path.with_file_name(name);
        let placed = locked(&new).and_then(|file| place(&new, &path).map(|()| file));
        if placed.is_err() {
            // Of no use to anybody; that it may not even be there is no news.
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
        // A filesystem without locks: then the process's name has to tell.
        Ok(()) | Err(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::EINVAL) => Ok(file),
        Err(error) => Err(error.into()),
    }
}

/// Gives the new file its name, unless that is a live agent's.
fn place(new: &Path, path: &Path) -> Result<(), PidFileError> {
    for _ in 0..ROUNDS {
        let old = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(old) => old,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match fs::hard_link(new, path) {
                    // Its other name is not needed.
                    Ok(()) => return Ok(fs::remove_file(new)?),
                    // Another agent was faster.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    // The filesystem has no links.
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
            // It is locked now, or there are no locks here.
            Ok(()) | Err(_) => {}
        }
        // Whoever replaces a file has its lock. Before this one had it, another may have done so.
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

/// Whether a process is there that has the name of this one.
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
            tracing::warn!("the pid file {} stays behind: {error}", self.path.display());
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
    fn a_pid_file_that_is_not_ours_any_more_stays() {
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

    /// The lock belongs to the open file and not to the process, so that one process can try.
    #[test]
    fn of_two_at_once_one_has_it_and_a_stale_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        let error = PidFile::write(&path).unwrap_err().to_string();
        let named = format!("another agent that runs, process {}", process::id());
        assert!(error.contains(&named), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
        assert_eq!(fs::read_to_string(&path).unwrap(), content());
        // As of an agent that was killed: its lock is gone, and its file is there.
        let text = content();
        drop(file);
        fs::write(&path, text).unwrap();
        PidFile::write(&path).unwrap();
    }
}
