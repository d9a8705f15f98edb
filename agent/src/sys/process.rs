//! What the process as a whole tells the system: limits, its pid file, and that it is ready.
//!
//! `plan` calls this at start. No `unsafe` in here.

use std::{
    env, fs,
    io::{self, Write},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            fs::OpenOptionsExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
    unistd::mkdtemp,
};

/// Raises the limit of open files as far as this process may: each connection is one.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// A new directory, mode 0700, named as `template` says, which ends in six X.
pub(crate) fn private_directory(template: &Path) -> io::Result<PathBuf> {
    Ok(mkdtemp(template)?)
}

/// stderr goes to a regular file: nobody waits for its end, as for a pipe's.
pub(crate) fn stderr_is_a_file() -> bool {
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(fs::File::from);
    stderr.and_then(|stderr| stderr.metadata()).is_ok_and(|found| found.is_file())
}

/// How often the service manager wants to hear that this process is well (sd_watchdog_enabled(3)).
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let ours = env::var_os("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(process::id().into());
    number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros)
}

/// Is there a service manager that wants to be told?
pub(crate) fn has_manager() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// CLOCK_MONOTONIC in microseconds, as sd_notify(3) wants it for MONOTONIC_USEC.
pub(crate) fn monotonic_usec() -> io::Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000)
}

/// Tells the service manager something, if there is one (sd_notify(3)): "READY=1".
pub(crate) fn notify(state: &str) -> io::Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return Ok(());
    };
    let to = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to)?;
    Ok(())
}

/// A file with this process's id; removed when dropped, if it still says so.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// A device or a pipe is written to and left alone.
    removed_at_end: bool,
}

impl PidFile {
    /// Writes it in one step: who reads it finds the old content or the new, never half.
    pub(crate) fn write(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let line = content();
        // Only a regular file may be replaced: `-P /dev/stdout` must not remove a device.
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            fs::OpenOptions::new().write(true).open(&path)?.write_all(line.as_bytes())?;
            return Ok(Self { path, removed_at_end: false });
        }
        // A link is followed, so that it is not the link that is replaced.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", process::id()));
        let new = path.with_file_name(name);
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o666)
            .open(&new)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            // Of no use to anybody; that it may not even be there is no news.
            fs::remove_file(&new).ok();
            return Err(error);
        }
        Ok(Self { path, removed_at_end: true })
    }
}

fn content() -> String {
    format!("{}\n", process::id())
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if !self.removed_at_end {
            return;
        }
        let ours = fs::read_to_string(&self.path).is_ok_and(|found| found == content());
        if ours && let Err(error) = fs::remove_file(&self.path) {
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
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
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
}
