//! The memory of the whole process: kept out of swap, and from the kernel's search for victims.

use std::{fs, io};

/// Locks what the process has and will have into memory (mlockall(2)).
pub(crate) fn lock_all() -> io::Result<()> {
    // SAFETY: takes no pointer, and changes nothing that Rust knows of.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Never to be killed when memory runs out: who swaps to this process's disk needs it then most.
pub(crate) fn spare_from_oom() -> io::Result<()> {
    // OOM_SCORE_ADJ_MIN, <linux/oom.h>.
    fs::write("/proc/self/oom_score_adj", "-1000")
}
