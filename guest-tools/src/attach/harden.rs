//! What keeps the relay alive where memory is short: the kernel may need it to write pages out before
//! there is any again. Nothing of it is fatal where it is not allowed.

use std::{fs, io};

use nix::sys::mman::{MlockAllFlags, mlockall};

use super::notify::tell;
use crate::sys;

/// For this thread and those that it starts.
pub(super) fn harden() {
    let locked = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
    for (what, done) in [
        ("lock its memory", locked.map_err(io::Error::from)),
        // Memory is never waited for that only this relay could make free.
        ("become an I/O flusher", sys::become_io_flusher().map_err(io::Error::from)),
        ("be the last to be killed", fs::write("/proc/self/oom_score_adj", "-1000")),
    ] {
        if let Err(error) = done {
            tell(&format!("the relay cannot {what}: {error}; short memory may stop it"));
        }
    }
}
