//! Keeps the relay alive when memory is short: the kernel may need the relay to write pages out
//! before memory is free again. A measure that is not permitted is reported and not fatal.

use std::{fs, io};

use nix::sys::mman::{MlockAllFlags, mlockall};

use super::notify::tell;
use crate::sys;

/// Hardens this thread and the threads that it starts.
pub(super) fn harden() {
    let locked = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
    for (what, done) in [
        ("lock its memory", locked.map_err(io::Error::from)),
        // This process then never waits for memory that only this relay could free.
        ("become an I/O flusher", sys::become_io_flusher().map_err(io::Error::from)),
        ("be the last to be killed", fs::write("/proc/self/oom_score_adj", "-1000")),
    ] {
        if let Err(error) = done {
            tell(&format!("the relay cannot {what}: {error}; short memory may stop it"));
        }
    }
}
