//! Commands that run for a client that opens an export: mkfs(8) for its disk, or a script that describes it.
//!
//! A command runs in a process group of its own. No thread waits for it. The number of commands that run at once is
//! limited, per tenant and in all; further commands wait for their turn. When its client leaves, the whole group is
//! ended.

mod output;

use std::{
    io,
    os::fd::OwnedFd,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, LazyLock},
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{
    io::unix::AsyncFd,
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::{sleep, timeout},
};

use self::output::{Kept, Pipe};
use crate::{child::Group, sys, tenant::Tenant};

/// The maximum of commands that run at once for all tenants together. Each is a process that computes and writes.
const MOST: usize = 16;
/// How long a command has to end by itself after TERM, since some clean up first.
const GRACE: Duration = Duration::from_secs(2);
/// The interval between two checks whether all members of a group have ended, which nothing reports.
const LOOK: Duration = Duration::from_millis(5);

static ALL: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MOST)));
/// The number of commands that run or are being ended.
static RUNNING: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    /// The first `output::MOST` bytes of its stdout.
    pub(crate) output: Vec<u8>,
    /// The last `output::MOST` bytes of its stderr.
    errors: Vec<u8>,
}

impl Ran {
    /// Its exit status and the last line of its stderr, for a message.
    pub(crate) fn why(&self) -> String {
        let said = String::from_utf8_lossy(&self.errors);
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
        let status = self.status;
        last.map_or_else(|| status.to_string(), |last| format!("{status}: {last}"))
    }
}

/// A command for the shell. Text from a client goes into its environment, and never into `text`.
pub(crate) fn command(text: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(text);
    // The service manager set these for this process, not for the command.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        shell.env_remove(name);
    }
    shell
}

/// Permission to run one command after another. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    tenant: Arc<Tenant>,
    _permits: Arc<[OwnedSemaphorePermit; 2]>,
}

/// Waits until a command may run for `tenant`.
pub(crate) async fn turn(tenant: &Arc<Tenant>) -> Turn {
    let open = |permit: Result<_, AcquireError>| permit.expect("nobody closes the semaphores");
    // The tenant's own queue comes first, so a tenant has no more places in the common queue than it may run commands.
    let own = open(Arc::clone(tenant.commands()).acquire_owned().await);
    let common = open(Arc::clone(&ALL).acquire_owned().await);
    Turn { tenant: Arc::clone(tenant), _permits: Arc::new([own, common]) }
}

/// Waits until no command runs, and all groups that were ended are gone.
pub(crate) async fn all_ended() {
    // The sender is static and never dropped.
    RUNNING.subscribe().wait_for(|count| *count == 0).await.ok();
}

/// Counts one running command until it is dropped.
struct Running;

impl Running {
    fn begin() -> Self {
        RUNNING.send_modify(|count| *count += 1);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.send_modify(|count| *count -= 1);
    }
}

impl Turn {
    /// Runs a command to its end, and returns `held`. Processes that it leaves running in its group are ended. If the
    /// caller stops waiting, the whole group is ended, and after that `held` is dropped on a thread that may block.
    ///
    /// # Errors
    /// The command cannot be started, or the agent is ending.
    pub(crate) async fn run<H>(&self, command: Command, held: H) -> io::Result<(Ran, H)>
    where
        H: Send + 'static,
    {
        let (mut tell, told) = oneshot::channel();
        let (turn, running) = (self.clone(), Running::begin());
        // A task of its own, which continues when the caller is gone.
        tokio::spawn(async move {
            let unwanted = match attend(&turn.tenant, command, &mut tell).await {
                Some(ran) => tell.send((ran, held)).err().map(|(_, held)| held),
                None => Some(held),
            };
            if let Some(held) = unwanted {
                turn.tenant.run(move || drop(held)).await;
            }
            drop((turn, running));
        });
        let ending = |_| io::Error::new(io::ErrorKind::Interrupted, "the agent is ending");
        let (ran, held) = told.await.map_err(ending)?;
        Ok((ran?, held))
    }
}

/// Runs a command to its end; `None` if the receiver of `tell` is dropped before.
async fn attend<T>(
    tenant: &Tenant,
    mut command: Command,
    tell: &mut oneshot::Sender<T>,
) -> Option<io::Result<Ran>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = tenant.run(move || Group::start(command)).await;
    let started = started.unwrap_or_else(|| Err(io::Error::other("a bug in agent")));
    let watched = started.and_then(|group| {
        let end = sys::poll::readable(group.end().try_clone_to_owned()?)?;
        Ok((group, end))
    });
    let (mut group, end) = match watched {
        Ok(watched) => watched,
        Err(error) => return Some(Err(error)),
    };
    let (output, errors) = (group.child().stdout.take(), group.child().stderr.take());
    let mut output = Pipe::new(output.map(OwnedFd::from), Kept::first());
    let mut errors = Pipe::new(errors.map(OwnedFd::from), Kept::last());
    let ended = tokio::select! {
        biased;
        () = tell.closed() => false,
        _ = end.readable() => true,
        // These two never complete. They are polled to read the pipes.
        () = output.listen() => true,
        () = errors.listen() => true,
    };
    if !ended {
        finish(group, &end).await;
        return None;
    }
    let (output, errors) = (output.rest(), errors.rest());
    Some(group.finish(true).map(|status| Ran { status, output, errors }))
}

/// Ends a group: TERM, then KILL.
async fn finish(group: Group, end: &AsyncFd<OwnedFd>) {
    group.signal(Signal::SIGTERM);
    timeout(GRACE, end.readable()).await.ok();
    group.signal(Signal::SIGKILL);
    end.readable().await.ok();
    let id = group.id();
    // The exit status of its leader does not matter.
    group.finish(true).ok();
    // The other members have been sent KILL and end soon. Signal 0 only checks for existence, so a later group with the
    // same number does not notice it.
    let gone = async {
        while nix::sys::signal::killpg(id, None).is_ok() {
            sleep(LOOK).await;
        }
    };
    timeout(GRACE, gone).await.ok();
}

#[cfg(test)]
mod tests;
