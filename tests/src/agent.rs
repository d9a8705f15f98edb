//! The agent on this machine, for the guests that it serves.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use images::Images;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{log::Log, process};

use crate::{Failure, Outcome};

/// How long to wait for a line of the log. Emulated guests are slow.
const TIMEOUT: Duration = Duration::from_mins(2);

/// An agent, which is killed when the value is dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: Log,
}

impl Agent {
    /// Starts the agent and waits until it listens.
    pub fn start(
        images: &Images,
        words: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Outcome<Self> {
        let agent = images.binaries()?.agent;
        let mut command = Command::new(agent);
        command.args(words.into_iter().map(|word| word.as_ref().to_owned()));
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|e| Failure::of("cannot start the agent", &e))?;
        let stderr = child.stderr.take().ok_or_else(|| Failure::new("no stderr"))?;
        let agent = Self { child, log: Log::follow(stderr) };
        agent.wait_for("listening on")?;
        Ok(agent)
    }

    /// Waits for a line of the log that contains `part`, starting after the last call's line.
    pub fn wait_for(&self, part: &str) -> Outcome<String> {
        let lines = self.log.up_to(part, TIMEOUT).ok();
        let line = lines.and_then(|mut lines| lines.pop());
        line.ok_or_else(|| self.failure(&format!("did not log {part:?}")))
    }

    /// Waits until `count` lines of the whole log contain `part`.
    pub fn wait_for_count(&self, part: &str, count: usize) -> Outcome<()> {
        let counted = |lines: &[String]| lines.iter().filter(|line| line.contains(part)).count();
        if self.log.wait_until(TIMEOUT, |lines| counted(lines) >= count) {
            return Ok(());
        }
        Err(self.failure(&format!("did not log {part:?} {count} times")))
    }

    /// Waits until `count` sessions have ended. The log suppresses lines that a client causes too often, and
    /// reports their number every few seconds.
    pub fn wait_for_ends(&self, count: usize) -> Outcome<()> {
        const SUPPRESSED: &str = "lines of the log were left out";
        let ends = |line: &String| match line.split_once(SUPPRESSED) {
            Some((_, rest)) => {
                let lines = rest.split_once("lines=").and_then(|(_, n)| n.split(' ').next());
                lines.and_then(|n| n.parse().ok()).unwrap_or(0)
            }
            None => usize::from(line.contains(" end=")),
        };
        if self.log.wait_until(TIMEOUT, |lines| lines.iter().map(ends).sum::<usize>() >= count) {
            return Ok(());
        }
        Err(self.failure(&format!("did not log the ends of {count} sessions")))
    }

    /// The failure `what` of this agent, with the end of its log.
    pub fn failure(&self, what: &str) -> Failure {
        let log = self.log.lines();
        let tail = &log[log.len().saturating_sub(40)..];
        Failure::new(format!("the agent: {what}\n--- the end of its log:\n{}", tail.join("\n")))
    }

    /// Kills the agent that this one supervises.
    pub fn kill_supervised(&self) -> Outcome<()> {
        let child = self.supervised().ok_or_else(|| self.failure("supervises no agent"))?;
        kill(child, Signal::SIGKILL).map_err(|e| Failure::of("cannot kill it", &e))
    }

    /// The agent that this one supervises.
    fn supervised(&self) -> Option<Pid> {
        let supervisor = self.child.id();
        let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"));
        children.ok()?.trim().parse().ok().map(Pid::from_raw)
    }

    /// How many descriptors the agent has open.
    pub fn descriptors(&self) -> usize {
        process::count(self.child.id(), "fd")
    }

    /// A number from the agent's `/proc/PID/status`: `VmRSS` in KiB, `Threads`.
    pub fn status(&self, key: &str) -> u64 {
        process::status(self.child.id(), key)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have exited already. A supervised agent goes on without its supervisor.
        let supervised = self.supervised();
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(agent) = supervised {
            kill(agent, Signal::SIGKILL).ok();
        }
    }
}
