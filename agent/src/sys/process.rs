//! Limits of the process, and messages to the service manager.
//!
//! `plan` calls this at start. No `unsafe` in here.

use std::{
    env, fs, io,
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
    unistd::mkdtemp,
};

use super::manager;

/// Raises the limit of open files to the hard limit, because each connection is one.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// The number of files that this process may have open.
pub(crate) fn open_files() -> u64 {
    // This cannot fail for an existing limit. 1024 is Linux's default.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// Makes a new directory with mode 0700. Its name is `template`, which must end in six X.
pub(crate) fn private_directory(template: &Path) -> io::Result<PathBuf> {
    Ok(mkdtemp(template)?)
}

/// Whether stderr is a regular file. No process waits for its end, unlike that of a pipe.
pub(crate) fn stderr_is_a_file() -> bool {
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(fs::File::from);
    stderr.and_then(|stderr| stderr.metadata()).is_ok_and(|found| found.is_file())
}

/// The interval at which the service manager expects to hear from this process
/// (sd_watchdog_enabled(3)).
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let ours = env::var_os("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(process::id().into());
    number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros)
}

/// Whether a service manager wants to be notified.
pub(crate) fn has_manager() -> bool {
    manager::address().is_some()
}

/// CLOCK_MONOTONIC in microseconds, for MONOTONIC_USEC of sd_notify(3).
pub(crate) fn monotonic_usec() -> io::Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000)
}

/// Sends `state`, such as "READY=1", to the service manager if there is one (sd_notify(3)).
pub(crate) fn notify(state: &str) -> io::Result<()> {
    let Some(to) = manager::address().transpose()? else { return Ok(()) };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to)?;
    Ok(())
}
