//! Forking into the background: the child does all the work, and the parent waits until the child
//! has reported that it is ready, or has failed.
//!
//! `plan` forks before anything is opened and before any thread is started.

use std::{
    fs::{self, File},
    io::{self, PipeReader, PipeWriter, Read, Write},
};

use nix::{
    errno::Errno,
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid},
};

/// Which of the two processes this is.
#[derive(Debug)]
pub(crate) enum Forked {
    Parent(Waiting),
    Child(Background),
}

/// The parent's state.
#[derive(Debug)]
pub(crate) struct Waiting {
    child: Pid,
    ready: PipeReader,
}

/// The child's state. It still has its parent's terminal, directory and session.
#[derive(Debug)]
pub(crate) struct Background {
    ready: PipeWriter,
}

/// Forks this process, which must have only one thread.
pub(crate) fn fork_once() -> io::Result<Forked> {
    if fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() != 1) {
        return Err(io::Error::other("threads are running already: a bug in agent"));
    }
    let (read, write) = io::pipe()?;
    // SAFETY: no other thread exists that could hold a lock which the child would wait for, so the
    // child may do everything that this process may.
    Ok(match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(write);
            Forked::Parent(Waiting { child, ready: read })
        }
        ForkResult::Child => {
            drop(read);
            Forked::Child(Background { ready: write })
        }
    })
}

impl Waiting {
    /// Waits for the child. Returns 0 when the child is ready. If it ended before, returns its exit
    /// status, or 128 plus the number of the signal that ended it.
    pub(crate) fn wait(mut self) -> io::Result<u8> {
        if self.ready.read_exact(&mut [0]).is_ok() {
            return Ok(0);
        }
        loop {
            return Ok(match waitpid(self.child, None) {
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(WaitStatus::Exited(_, status)) => u8::try_from(status).unwrap_or(1),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    u8::try_from(128 + signal as i32).unwrap_or(1)
                }
                Ok(_) => continue,
            });
        }
    }
}

impl Background {
    /// Leaves the terminal, the directory and the session, and reports that the agent is ready.
    /// Fails if the parent has stopped waiting.
    pub(crate) fn detach(mut self, keep_stderr: bool) -> io::Result<()> {
        setsid()?;
        chdir("/")?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        self.ready.write_all(&[1])?;
        if !keep_stderr {
            // Closed last, so that errors are reported until here.
            dup2_stderr(&null)?;
        }
        Ok(())
    }
}
