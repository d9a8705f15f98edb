//! A child with all that it starts: a process group, ended when it is dropped.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::PollTimeout,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::sys::poll;

/// How long a group has to end after TERM, and its leader to be gone after KILL.
const GRACE: Duration = Duration::from_millis(500);

/// Every group that is there, so that none outlives the agent.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends every group, before this process ends.
pub(crate) fn end_all() {
    for group in running().drain(..) {
        kill(group, Signal::SIGKILL);
    }
}

/// A group that is gone needs no signal.
fn kill(group: Pid, signal: Signal) {
    if let Err(error) = killpg(group, signal)
        && error != Errno::ESRCH
    {
        tracing::warn!("the process group {group} cannot be sent {signal}: {error}");
    }
}

/// The leader is waited for last: as long as it is not, the group's number is nobody else's.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    id: Pid,
    /// Readable when the leader has ended.
    end: OwnedFd,
    waited: bool,
}

impl Group {
    pub(crate) fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command.process_group(0).spawn()?;
        let id = Pid::from_raw(child.id().cast_signed());
        let end = match poll::process(child.id()) {
            Ok(end) => end,
            Err(error) => {
                kill(id, Signal::SIGKILL);
                child.wait()?;
                return Err(error);
            }
        };
        running().push(id);
        Ok(Self { child, id, end, waited: false })
    }

    pub(crate) fn id(&self) -> Pid {
        self.id
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Readable when the leader has ended.
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    pub(super) fn has_ended(&self) -> bool {
        poll::is_readable(&self.end)
    }

    /// The status of a leader that has ended. With `sweep` all the others end too.
    pub(crate) fn finish(mut self, sweep: bool) -> io::Result<ExitStatus> {
        if sweep {
            kill(self.id, Signal::SIGKILL);
        }
        self.waited = true;
        self.child.wait()
    }

    /// Sends a signal to all of it.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.id, signal);
    }

    fn ends_soon(&self) -> bool {
        let wait = PollTimeout::try_from(GRACE).unwrap_or(PollTimeout::MAX);
        poll::wait(&[self.end.as_fd()], &[], wait).ok();
        self.has_ended()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.waited {
            kill(self.id, Signal::SIGTERM);
            self.ends_soon();
            kill(self.id, Signal::SIGKILL);
            // One that hangs in the kernel is not waited for.
            if self.ends_soon() {
                self.child.wait().ok();
            }
        }
        running().retain(|group| *group != self.id);
    }
}
