//! Locks on files that end with the descriptor: F_OFD_SETLK of fcntl(2), which nbdkit uses too. The locks of
//! `File::try_lock` are those of flock(2), and the two kinds do not see each other.

use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, fcntl};

/// Locks the whole file exclusively. Fails with EAGAIN or EACCES if it is locked.
pub(crate) fn try_exclusive(file: &OwnedFd) -> nix::Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "1 and 0, in the type of the field")]
    let whole = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).map(drop)
}
