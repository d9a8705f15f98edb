//! What this process inherited: descriptors from 3 on, the variables that describe them, stdin, stdout and stderr.
//!
//! `listen` calls this at start, when it classifies the descriptors.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    sync::{Mutex, PoisonError},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{SockaddrStorage, getpeername},
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout},
};

/// Returns the values of variables and removes them from the environment, so that no child sees them. While other
/// threads run they are only read.
pub(crate) fn take_variables<const N: usize>(names: [&str; N]) -> [Option<OsString>; N] {
    let values = names.map(env::var_os);
    if values.iter().any(Option::is_some) && is_only_thread() {
        for name in names {
            // SAFETY: nothing reads the environment at the same time: there is no other thread, and this one starts
            // none here. There is no safe way to change the environment, and removing the variables at each start of a
            // child would be easy to miss.
            #[expect(clippy::disallowed_methods, reason = "there is no other thread")]
            unsafe {
                env::remove_var(name);
            }
        }
    }
    values
}

fn is_only_thread() -> bool {
    fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Sets close-on-exec on `fd`. Fails if it is not open.
pub(crate) fn close_on_exec(fd: RawFd) -> io::Result<()> {
    assert!(fd > 2, "stdin, stdout and stderr are not meant");
    // SAFETY: the descriptor is used for these two calls only, which fail if it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?);
    fcntl(fd, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Takes ownership of descriptor `fd`. It must have been inherited for this process to own, and must have been open at
/// its start, when `close_on_exec` checked it. Works once for each descriptor.
pub(crate) fn claim(fd: RawFd) -> io::Result<OwnedFd> {
    static CLAIMED: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());
    if !CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).insert(fd) {
        return Err(io::Error::other("it was taken before"));
    }
    // SAFETY: the process that started this one opened it for this one to own (sd_listen_fds(3)). It was open at start,
    // so the kernel has given its number to nothing here. This is the only place that makes it owned, which it does
    // once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A duplicate of the connected socket with this number.
pub(crate) fn connected_socket(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the descriptor is used for these two calls only, which fail if it is not open. Duplicating it takes
    // nothing away from its owner.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    getpeername::<SockaddrStorage>(fd.as_raw_fd())?;
    fd.try_clone_to_owned()
}

/// Duplicates stdin and stdout and puts /dev/null in their places, so that later output is not sent to a client.
pub(crate) fn take_stdin_and_stdout() -> io::Result<(OwnedFd, OwnedFd)> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let taken = (stdin.as_fd().try_clone_to_owned()?, stdout.as_fd().try_clone_to_owned()?);
    let null = null()?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(taken)
}

/// Replaces stderr by /dev/null where it is the client's socket. inetd and xinetd make stdin and stderr the same
/// socket, and error messages must not reach the client. With `any`, also where stderr is the same socket as stdout or
/// the same pipe as either. (Not without it: under systemd stdout and stderr are one socket, the journal's.) Returns
/// whether it was replaced.
pub(crate) fn part_stderr_from_client(any: bool) -> io::Result<bool> {
    let stderr = identity(io::stderr().as_fd())?;
    let is_client = identity(io::stdin().as_fd())? == stderr
        || any && identity(io::stdout().as_fd())? == stderr;
    let parted = (any && stderr.is_pipe || stderr.is_socket) && is_client;
    if parted {
        dup2_stderr(null()?)?;
    }
    Ok(parted)
}

/// Identifies a socket or pipe: each has an inode of its own.
#[derive(PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    is_socket: bool,
    is_pipe: bool,
}

fn identity(fd: BorrowedFd<'_>) -> io::Result<Identity> {
    let found = File::from(fd.try_clone_to_owned()?).metadata()?;
    Ok(Identity {
        device: found.dev(),
        inode: found.ino(),
        is_socket: found.file_type().is_socket(),
        is_pipe: found.file_type().is_fifo(),
    })
}

/// Whether the two descriptors are the same socket.
pub(crate) fn is_one_socket(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<bool> {
    let one = identity(one)?;
    Ok(one.is_socket && one == identity(other)?)
}

fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd, unix::net::UnixStream};

    use super::*;

    #[test]
    fn variables_stay_while_other_threads_run() {
        // Each test runs on a thread of its own.
        let [path, none] = take_variables(["PATH", "NO_SUCH_VARIABLE_OF_AGENT"]);
        assert_eq!((path, none), (env::var_os("PATH"), None));
        assert!(env::var_os("PATH").is_some());
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_an_error() {
        let (open, _other) = UnixStream::pair().unwrap();
        close_on_exec(open.as_raw_fd()).unwrap();
        assert_eq!(close_on_exec(1 << 20).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn sockets_are_told_apart() {
        let (one, other) = UnixStream::pair().unwrap();
        let same = one.try_clone().unwrap();
        assert!(is_one_socket(one.as_fd(), same.as_fd()).unwrap());
        assert!(!is_one_socket(one.as_fd(), other.as_fd()).unwrap());
        let null = null().unwrap();
        assert!(!is_one_socket(null.as_fd(), null.as_fd()).unwrap());
    }
}
