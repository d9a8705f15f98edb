//! The way into the background: a child that does all the work, and a parent that waits until it is
//! ready and has said so, or has failed.
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

/// Which of the two this process is now.
#[derive(Debug)]
pub(crate) enum Forked {
    Parent(Waiting),
    Child(Background),
}

/// The parent's end.
#[derive(Debug)]
pub(crate) struct Waiting {
    child: Pid,
    ready: PipeReader,
}

/// The child's end: still with the terminal, the directory and the session of its parent.
#[derive(Debug)]
pub(crate) struct Background {
    ready: PipeWriter,
}

/// Makes two processes of this one, which must have one thread.
pub(crate) fn fork_once() -> io::Result<Forked> {
    if fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() != 1) {
        return Err(io::Error::other("threads are running already: a bug in agent"));
    }
    let (read, write) = io::pipe()?;
    // SAFETY: no other thread exists that could hold a lock which the child would wait for, so the
    // child may do whatever this process may.
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
    /// Waits for the child: 0 when it is ready, and its own exit status when it ended before
    /// (128 and the number when a signal ended it).
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
    /// Leaves the terminal, the directory and the session, and says that all is ready. Fails if
    /// nobody waits for that any more.
    pub(crate) fn detach(mut self, keep_stderr: bool) -> io::Result<()> {
        setsid()?;
        chdir("/")?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        self.ready.write_all(&[1])?;
        if !keep_stderr {
            // The last to go: until here what is wrong is still told.
            dup2_stderr(&null)?;
        }
        Ok(())
    }
}
