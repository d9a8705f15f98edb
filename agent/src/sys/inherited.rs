//! What another process has left in this one: descriptors from 3 on, variables that are about
//! them, stdin, stdout and stderr.
//!
//! `listen` calls this at start, where it finds out what the descriptors are.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{SockaddrStorage, getpeername},
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout},
};

/// Takes variables out of the environment, so that no child sees them, and gives their values.
/// While other threads run they are only read.
pub(crate) fn take_variables<const N: usize>(names: [&str; N]) -> [Option<OsString>; N] {
    let values = names.map(env::var_os);
    if values.iter().any(Option::is_some) && is_only_thread() {
        for name in names {
            // SAFETY: nobody reads the environment at the same time: there is no other thread, and
            // this one starts none here. There is no safe way to change it, and to leave it to each
            // start of a child would be forgotten once.
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

/// Keeps `fd` from children. Fails if it is not open.
pub(crate) fn close_on_exec(fd: RawFd) -> io::Result<()> {
    assert!(fd > 2, "stdin, stdout and stderr are not meant");
    // SAFETY: the descriptor is used for these two calls only, which fail if it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?);
    fcntl(fd, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Makes the `count` descriptors from `first` on this process's own. They must have been open when
/// it started (`close_on_exec` has seen them then), and have been left to it. Works once.
pub(crate) fn claim(first: RawFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    static CLAIMED: AtomicBool = AtomicBool::new(false);
    if CLAIMED.swap(true, Ordering::Relaxed) {
        return Err(io::Error::other("they were taken before"));
    }
    let own = |fd| {
        // SAFETY: whoever started this process opened them for it to own (sd_listen_fds(3)). They
        // were open at start, so nothing here has got one of these numbers from the kernel; and
        // this is the only place that makes them owned, which it does once.
        unsafe { OwnedFd::from_raw_fd(fd) }
    };
    Ok((first..).take(count).map(own).collect())
}

/// A duplicate of the connected socket that has this number.
pub(crate) fn connected_socket(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the descriptor is used for these two calls only, which fail if it is not open; whoever
    // it belongs to, to duplicate it takes nothing away.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    getpeername::<SockaddrStorage>(fd.as_raw_fd())?;
    fd.try_clone_to_owned()
}

/// Duplicates of stdin and stdout, with /dev/null in their places: whatever is printed from now on
/// is not sent to a client.
pub(crate) fn take_stdin_and_stdout() -> io::Result<(OwnedFd, OwnedFd)> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let taken = (stdin.as_fd().try_clone_to_owned()?, stdout.as_fd().try_clone_to_owned()?);
    let null = null()?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(taken)
}

/// Where stderr is the socket that stdin is as well, as inetd and xinetd have it, nothing said there
/// may reach the client: stderr becomes /dev/null. With `any`, also where it is stdout's, and where
/// they are one pipe. (Without: under systemd stdout and stderr are one socket, the journal's.)
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

/// What tells a descriptor's other end from all others: sockets and pipes have inodes of their own.
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

/// The two are one socket.
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
        // Tests run on threads of their own.
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
