//! Starts a program with descriptors from 3 on, as sd_listen_fds(3) describes. `std::process` cannot: LISTEN_PID is the
//! number of the new process.
//!
//! `command::supervise` starts the agent with it.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    fs,
    io::{self, PipeWriter, Read, Write},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    sys::{
        signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, execve, fork, getpid},
};

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;

/// A program to start.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) path: &'a CStr,
    /// The first is the name by which it is called.
    pub(crate) words: &'a [CString],
    /// `NAME=VALUE`.
    pub(crate) variables: Vec<CString>,
    /// The names of variables whose value is the number of the new process.
    pub(crate) of_its_id: &'a [&'a str],
    /// The signals that are blocked in the new process.
    pub(crate) blocked: &'a SigSet,
    /// Its descriptors from 3 on.
    pub(crate) files: &'a [BorrowedFd<'a>],
}

/// Starts the program. This process must have only one thread.
///
/// # Errors
/// There is no other process, or the program cannot be executed.
pub(crate) fn start(program: Program<'_>) -> io::Result<Pid> {
    if fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() != 1) {
        return Err(io::Error::other("threads are running already: a bug in agent"));
    }
    let (mut failure, fails) = io::pipe()?;
    // SAFETY: no other thread exists that could hold a lock which the child would wait for, so the child may do
    // everything that this process may.
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(failure);
            become_it(program, fails);
        }
    };
    drop(fails);
    let mut errno = [0; 4];
    // The pipe ends without a byte when the program is executed.
    if failure.read_exact(&mut errno).is_err() {
        return Ok(child);
    }
    while waitpid(child, None) == Err(Errno::EINTR) {}
    Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
}

/// In the new process.
fn become_it(program: Program<'_>, mut fails: PipeWriter) -> ! {
    let Err(error) = execute(program, &mut fails);
    fails.write_all(&(error as i32).to_ne_bytes()).ok();
    // SAFETY: ends the process without the parent's destructors and exit handlers, which are not the child's.
    unsafe { libc::_exit(127) }
}

fn execute(mut program: Program<'_>, fails: &mut PipeWriter) -> Result<Infallible, Errno> {
    let end = FIRST + RawFd::try_from(program.files.len()).map_err(|_| Errno::EMFILE)?;
    // First out of the way of the numbers that the program gets.
    let above = |fd: BorrowedFd<'_>| {
        let fd = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(end))?;
        // SAFETY: the kernel has just opened it, and nothing else knows it.
        Ok::<_, Errno>(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    *fails = PipeWriter::from(above(std::os::fd::AsFd::as_fd(fails))?);
    let files = program.files.iter().map(|fd| above(*fd)).collect::<Result<Vec<_>, _>>()?;
    for (number, file) in (FIRST..).zip(&files) {
        // SAFETY: replaces a descriptor of this process, which uses none below `end` any more but stdin, stdout and
        // stderr.
        Errno::result(unsafe { libc::dup2(file.as_raw_fd(), number) })?;
    }
    let own = getpid();
    let of_its_id = program.of_its_id.iter().map(|name| CString::new(format!("{name}={own}")));
    program.variables.extend(of_its_id.filter_map(Result::ok));
    // SAFETY: no handler is installed. Rust's runtime ignores the signal, and a program expects its default.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(program.blocked), None)?;
    execve(program.path, program.words, &program.variables)
}
