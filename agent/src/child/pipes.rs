//! The pipes between the agent and a child. All are served at once, without waiting for a single one.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{signal::Signal, signalfd::SignalFd},
};

use super::group::Group;

/// The minimum of bytes of stderr that are kept: its end, which has the reason of a failure.
const STDERR: usize = 64 << 10;
/// Bytes per read from a pipe.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Pipes<'a> {
    input: &'a [u8],
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// The maximum of bytes of stdout.
    most: usize,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl<'a> Pipes<'a> {
    /// Takes the pipes of the child.
    pub(super) fn of(child: &mut Child, input: &'a [u8], most: usize) -> Self {
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ends = [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd)];
        for end in ends.into_iter().chain([stderr.as_ref().map(AsFd::as_fd)]).flatten() {
            // It does not fail on a pipe.
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok();
        }
        Self { input, stdin, stdout, stderr, most, out: Vec::new(), err: Vec::new() }
    }

    /// Whether both outputs are closed.
    pub(super) fn are_closed(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.out.len() > self.most
    }

    /// stdout and the last part of stderr.
    pub(super) fn taken(self) -> (Vec<u8>, Vec<u8>) {
        (self.out, self.err)
    }

    /// Waits at most `most` for the child's end, a signal, or a pipe that is ready, and serves the pipes. Returns the
    /// signal, if there was one.
    pub(super) fn wait(
        &mut self,
        group: &Group,
        signals: Option<&SignalFd>,
        most: Option<Duration>,
    ) -> io::Result<Option<Signal>> {
        let pending = !group.has_ended();
        let inputs = [
            pending.then(|| group.end()),
            signals.map(AsFd::as_fd),
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
        ];
        let inputs = inputs.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let stdin = self.stdin.iter().map(|stdin| PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
        let mut fds: Vec<_> = inputs.chain(stdin).collect();
        // Rounded up; otherwise the last millisecond would be spent spinning.
        let most = most.map(|most| most + Duration::from_millis(1));
        let timeout = most.map_or(PollTimeout::NONE, |most| {
            PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(signal) = signals.and_then(|signals| signals.read_signal().ok().flatten()) {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            return Ok(Signal::try_from(number).ok());
        }
        self.feed();
        take(&mut self.stdout, &mut self.out, self.most + 1);
        take(&mut self.stderr, &mut self.err, usize::MAX);
        if self.err.len() > 2 * STDERR {
            self.err.drain(..self.err.len() - STDERR);
        }
        Ok(None)
    }

    /// Writes to the child's stdin. An error is ignored: a child that does not read its input reports the reason
    /// itself.
    fn feed(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(self.input) {
            Ok(written) => self.input = &self.input[written..],
            Err(error) if is_nothing(&error) => return,
            Err(_) => self.input = &[],
        }
        if self.input.is_empty() {
            self.stdin = None;
        }
    }
}

/// Reads the available bytes, up to `most` in all. Sets `pipe` to `None` at its end.
fn take(pipe: &mut Option<impl Read>, into: &mut Vec<u8>, most: usize) {
    let Some(open) = pipe else { return };
    let room = most.saturating_sub(into.len()).min(CHUNK);
    if room == 0 {
        return;
    }
    let len = into.len();
    into.resize(len + room, 0);
    let read = open.read(&mut into[len..]);
    into.truncate(len + *read.as_ref().unwrap_or(&0));
    match read {
        Ok(0) => *pipe = None,
        Ok(_) => {}
        Err(error) if is_nothing(&error) => {}
        Err(_) => *pipe = None,
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
