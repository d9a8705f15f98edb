//! A child with all processes that it starts: a process group, which is ended on drop.

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

/// All existing groups, so that none outlives the agent.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends all groups. Called before this process ends.
pub(crate) fn end_all() {
    for group in running().drain(..) {
        kill(group, Signal::SIGKILL);
    }
}

/// Sends a signal to a group. It is no error if the group is gone.
fn kill(group: Pid, signal: Signal) {
    if let Err(error) = killpg(group, signal)
        && error != Errno::ESRCH
    {
        tracing::warn!("the process group {group} cannot be sent {signal}: {error}");
    }
}

/// A process group. Its leader is reaped last: until then no other process can get the group's number.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    id: Pid,
    /// A pidfd: readable when the leader has ended.
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

    /// The exit status of a leader that has ended. With `sweep` all other members are ended too.
    pub(crate) fn finish(mut self, sweep: bool) -> io::Result<ExitStatus> {
        if sweep {
            kill(self.id, Signal::SIGKILL);
        }
        self.waited = true;
        self.child.wait()
    }

    /// Sends a signal to all members.
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
            // A leader that hangs in the kernel is not waited for.
            if self.ends_soon() {
                self.child.wait().ok();
            }
        }
        running().retain(|group| *group != self.id);
    }
}
