//! Programs that the agent runs for their output: virsh, the doctor's probes and fixes, the scripts of plugins and
//! layers.
//!
//! Each is a process group of its own, with a bound on its output and, if the caller sets one, a deadline. When the
//! output is complete, the deadline passes, or the agent ends, all processes that the program started are ended. The
//! calls block, so in a serving agent they are made on a tenant's threads.
//!
//! Long-lived children are handled elsewhere: the command of `--run` in `process`, another NBD server in `remote`.

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

/// The maximum of bytes of stdout, unless the caller sets another.
const OUTPUT: usize = 4 << 20;
/// How long the output of a program is read after its end, if a process that it left running holds the pipe.
const DRAIN: Duration = Duration::from_millis(500);

/// Why a program gave no answer.
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
    /// Its last part, if it is long.
    pub(crate) stderr: Vec<u8>,
}

/// A program to run.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    command: Command,
    input: &'a [u8],
    time: Option<Duration>,
    output: usize,
    terminal: Terminal,
}

impl<'a> Job<'a> {
    /// A program with empty stdin, at most 4 MiB of stdout, and no deadline.
    pub(crate) fn new(command: Command) -> Self {
        Self { command, input: &[], time: None, output: OUTPUT, terminal: Terminal::Nobodys }
    }

    /// Sets its stdin.
    pub(crate) fn input(mut self, input: &'a [u8]) -> Self {
        self.input = input;
        self
    }

    /// Sets its deadline, as a time from its start.
    pub(crate) fn within(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Sets the maximum of bytes that it may print on stdout.
    pub(crate) fn output(mut self, most: usize) -> Self {
        self.output = most;
        self
    }

    /// Has TERM, INT, HUP and QUIT end the child first. Only for a process with one thread. With `asks` the child has
    /// the terminal meanwhile, which ssh(1) needs to ask for a password.
    pub(crate) fn interruptible(mut self, asks: bool) -> Self {
        self.terminal = if asks { Terminal::Childs } else { Terminal::Ours };
        self
    }

    /// Runs it to its end and returns its output. Processes that it leaves running in its group are ended.
    pub(crate) fn answer(mut self) -> Result<Printed, ChildError> {
        self.command.stderr(Stdio::piped());
        self.print()
    }

    /// As `answer`, but with the agent's own stderr: for a script of the user.
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

    /// Returns the first bytes of its stdout, at most as many as [`Job::output`] sets, regardless of its exit status.
    /// Once it has printed enough, it is ended. stderr is the agent's.
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

    /// Runs it to its end and returns its exit status; stdout and stderr are the agent's. Processes that it leaves
    /// running continue.
    pub(crate) fn status(mut self) -> Result<ExitStatus, ChildError> {
        self.command.stdin(Stdio::null());
        let (status, _) = self.run(false)?;
        // Nothing is read here, so there is no flood.
        status.ok_or(ChildError::Flood(0))
    }

    /// Runs it. The status is `None` if it printed too much and was ended.
    fn run(self, sweep: bool) -> Result<(Option<ExitStatus>, Pipes<'a>), ChildError> {
        let end = self.time.map(|time| Instant::now() + time);
        // Before the child exists, so that no signal is missed.
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
                // This does not return.
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
