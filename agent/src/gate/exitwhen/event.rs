//! The events of `exitwhen`, and how each is detected.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use human::chain;

use crate::{child::Job, sys::poll};

/// How long a script may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// The exit status of a script whose event has happened.
const HAPPENED: i32 = 88;

#[derive(Debug)]
pub(super) enum Event {
    Created(PathBuf),
    Deleted(PathBuf),
    /// `end` is our end of a pipe that the agent inherited as `fd`.
    Closed {
        fd: i32,
        end: OwnedFd,
    },
    /// `end` becomes readable when the process ends.
    Exits {
        pid: u32,
        end: OwnedFd,
    },
    Script(String),
}

impl Event {
    /// Whether the event has happened. Takes one system call. Scripts are never asked here.
    pub(super) fn has_happened(&self) -> bool {
        match self {
            Self::Created(path) => self.exists(path).unwrap_or(false),
            Self::Deleted(path) => !self.exists(path).unwrap_or(true),
            Self::Closed { end, .. } => poll::is_hung_up(end),
            Self::Exits { end, .. } => poll::is_readable(end),
            Self::Script(_) => false,
        }
    }

    /// `None` if this cannot be determined. The error is logged.
    fn exists(&self, path: &Path) -> Option<bool> {
        match path.try_exists() {
            Ok(exists) => Some(exists),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Some(false),
            Err(error) => {
                tracing::error!("filter exitwhen: cannot check {self}: {error}");
                None
            }
        }
    }

    pub(super) fn is_script(&self) -> bool {
        matches!(self, Self::Script(_))
    }

    /// Runs the script, if the event is one. An error is logged, and the event has not happened.
    pub(super) fn is_script_that_has_happened(&self) -> bool {
        let Self::Script(command) = self else { return false };
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command);
        let status = Job::new(shell).within(PATIENCE).status();
        match status.map(|status| (status.code(), status)) {
            Ok((Some(0), _)) => false,
            Ok((Some(HAPPENED), _)) => true,
            Ok((_, status)) => {
                tracing::error!("filter exitwhen: {self}: {status}; 0 is no and {HAPPENED} is yes");
                false
            }
            Err(error) => {
                tracing::error!("filter exitwhen: {self}: {}", chain(&error));
                false
            }
        }
    }

    /// A descriptor that becomes readable when the event happens.
    pub(super) fn input(&self) -> Option<&OwnedFd> {
        match self {
            Self::Exits { end, .. } => Some(end),
            _ => None,
        }
    }

    /// A descriptor whose other end is closed when the event happens.
    pub(super) fn end(&self) -> Option<&OwnedFd> {
        match self {
            Self::Closed { end, .. } => Some(end),
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(path) => write!(f, "exit-when-file-created={}", path.display()),
            Self::Deleted(path) => write!(f, "exit-when-file-deleted={}", path.display()),
            Self::Closed { fd, .. } => write!(f, "exit-when-pipe-closed={fd}"),
            Self::Exits { pid, .. } => write!(f, "exit-when-process-exits={pid}"),
            Self::Script(command) => write!(f, "exit-when-script={command:?}"),
        }
    }
}
