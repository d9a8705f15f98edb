//! Programs that the agent runs for what they answer: virsh, the doctor's probes and fixes, the scripts of
//! plugins and layers.
//!
//! Each is a process group of its own with a bound on what it may print and, where the caller names one, a
//! deadline. When the answer is there, or the deadline passes, or the agent ends, all that the program
//! started ends with it. A caller waits: on the engine's threads this is for work of a tenant's threads.
//!
//! Long-lived children are not for this: the command of `--run` (`process`), another NBD server (`remote`).

mod group;
mod pipes;
mod terminal;

use std::{
    io,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use thiserror::Error;

pub(crate) use self::group::{Group, end_all};
use self::{pipes::Pipes, terminal::Terminal};

/// Most bytes of stdout, unless the caller says otherwise.
const OUTPUT: usize = 4 << 20;
/// How long what a program has printed is read after its end, where something that it left running holds
/// the pipe.
const DRAIN: Duration = Duration::from_millis(500);

/// Why a program has no answer.
#[derive(Debug, Error)]
pub(crate) enum ChildError {
    #[error("it cannot be started")]
    Start(#[source] io::Error),
    #[error("no answer in {0:?}; it was ended")]
    Deadline(Duration),
    #[error("it prints more than {0} bytes; it was ended")]
    Flood(usize),
    #[error("it cannot be waited for")]
    Wait(#[source] io::Error),
}

/// A program's end and what it printed.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// The end of it, where it is long.
    pub(crate) stderr: Vec<u8>,
}

/// A program that is to be run.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    command: Command,
    input: &'a [u8],
    time: Option<Duration>,
    output: usize,
    terminal: Terminal,
}

impl<'a> Job<'a> {
    /// Reads nothing, may print 4 MiB, and takes as long as it takes.
    pub(crate) fn new(command: Command) -> Self {
        Self { command, input: &[], time: None, output: OUTPUT, terminal: Terminal::Nobodys }
    }

    /// What it finds on stdin.
    pub(crate) fn input(mut self, input: &'a [u8]) -> Self {
        self.input = input;
        self
    }

    /// How long it may take.
    pub(crate) fn within(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// How many bytes it may print on stdout.
    pub(crate) fn output(mut self, most: usize) -> Self {
        self.output = most;
        self
    }

    /// For a program with one thread: TERM, INT, HUP and QUIT end the child first. With `asks` the child
    /// has the terminal meanwhile, as ssh(1) needs to ask for a password.
    pub(crate) fn interruptible(mut self, asks: bool) -> Self {
        self.terminal = if asks { Terminal::Childs } else { Terminal::Ours };
        self
    }

    /// Runs it to its end, for what it prints. What it leaves running in its group is ended.
    pub(crate) fn answer(mut self) -> Result<Printed, ChildError> {
        self.command.stderr(Stdio::piped());
        self.print()
    }

    /// The same, with the agent's own stderr: a script of the user's.
    pub(crate) fn print(mut self) -> Result<Printed, ChildError> {
        let most = self.output;
        self.pipe();
        match self.run(true)? {
            (None, _) => Err(ChildError::Flood(most)),
            (Some(status), pipes) => {
                let (stdout, stderr) = pipes.taken();
                Ok(Printed { status, stdout, stderr })
            }
        }
    }

    /// The first bytes that it prints, no more than [`Job::output`] says, however it ends: with enough of
    /// them it is ended. stderr is the agent's.
    pub(crate) fn beginning(mut self) -> Result<Vec<u8>, ChildError> {
        let most = self.output;
        self.pipe();
        let (_, pipes) = self.run(true)?;
        let (mut stdout, _) = pipes.taken();
        stdout.truncate(most);
        Ok(stdout)
    }

    fn pipe(&mut self) {
        let stdin = if self.input.is_empty() { Stdio::null() } else { Stdio::piped() };
        self.command.stdin(stdin).stdout(Stdio::piped());
    }

    /// Runs it to its end, for its exit status; stdout and stderr are the agent's. What it leaves running
    /// goes on.
    pub(crate) fn status(mut self) -> Result<ExitStatus, ChildError> {
        self.command.stdin(Stdio::null());
        let (status, _) = self.run(false)?;
        // Nothing of it is read here, so it is no flood.
        status.ok_or(ChildError::Flood(0))
    }

    /// No status: it has printed too much, and was ended.
    fn run(self, sweep: bool) -> Result<(Option<ExitStatus>, Pipes<'a>), ChildError> {
        let end = self.time.map(|time| Instant::now() + time);
        // Before the child is there, so that no signal is missed.
        let guard = self.terminal.guard().map_err(ChildError::Wait)?;
        let mut group = Group::start(self.command).map_err(ChildError::Start)?;
        guard.hand_over(group.id());
        let mut pipes = Pipes::of(group.child(), self.input, self.output);
        let mut drained = None;
        loop {
            let now = Instant::now();
            let ended = group.has_ended();
            if ended && drained.is_none() {
                drained = Some(now + DRAIN);
            }
            if ended && (pipes.are_closed() || drained.is_some_and(|end| end <= now)) {
                break;
            }
            let until = match (drained, end) {
                (Some(drained), _) => Some(drained),
                (None, Some(end)) if end <= now => {
                    return Err(ChildError::Deadline(self.time.unwrap_or_default()));
                }
                (None, end) => end,
            };
            let wait = until.map(|until| until.saturating_duration_since(now));
            let signal = pipes.wait(&group, guard.signals(), wait).map_err(ChildError::Wait)?;
            if let Some(signal) = signal {
                // Does not come back.
                drop(group);
                guard.pass_on(signal);
                return Err(ChildError::Wait(io::ErrorKind::Interrupted.into()));
            }
            if pipes.is_flooded() {
                return Ok((None, pipes));
            }
        }
        let status = group.finish(sweep).map_err(ChildError::Wait)?;
        Ok((Some(status), pipes))
    }
}

#[cfg(test)]
mod tests;
