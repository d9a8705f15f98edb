//! What the process as a whole tells the system: limits, and that it is ready.
//!
//! `plan` calls this at start. No `unsafe` in here.

use std::{
    env, fs, io,
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
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

/// How many files this process may have open.
pub(crate) fn open_files() -> u64 {
    // It cannot fail for a limit that there is; 1024 is what a process has where nobody says more.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
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
