//! Starts an agent as a service manager does: with descriptors from 3 on and LISTEN_* set.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Command,
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::BINARY;

/// Moves descriptors to 3 and up, sets the environment, and becomes the agent. A shell cannot do
/// this (some accept only one digit), and neither can std without `unsafe`.
const LAUNCHER: &str = r#"
import fcntl, os, sys
names, fds, command = sys.argv[1], sys.argv[2], sys.argv[3:]
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds.split()]
os.closerange(3, 100)
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ.setdefault("LISTEN_FDS", str(len(high)))
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execv(command[0], command)
"#;

/// Descriptors to pass to an agent.
#[derive(Default)]
pub(crate) struct Handed {
    fds: Vec<OwnedFd>,
    names: Option<String>,
}

impl Handed {
    pub(crate) fn one(fd: impl Into<OwnedFd>) -> Self {
        Self::default().and(fd)
    }

    pub(crate) fn and(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.fds.push(fd.into());
        self
    }

    /// Sets LISTEN_FDNAMES.
    pub(crate) fn named(mut self, names: &str) -> Self {
        self.names = Some(names.to_owned());
        self
    }

    /// A program that becomes the agent; the agent's words are appended. It must be started while
    /// `self` lives.
    pub(crate) fn launcher(&self) -> Command {
        let numbers: Vec<String> = self.fds.iter().map(inherited).collect();
        let mut command = Command::new("/usr/bin/python3");
        let names = self.names.as_deref().unwrap_or("-");
        command.args(["-c", LAUNCHER, names, &numbers.join(" "), BINARY]);
        command
    }
}

/// Lets children inherit a descriptor, and returns its number.
fn inherited(fd: &impl AsFd) -> String {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    fd.as_fd().as_raw_fd().to_string()
}
