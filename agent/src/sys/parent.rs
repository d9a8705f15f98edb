//! The life of the process that started this one. No `unsafe` in here.

use std::io;

use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{Pid, getppid},
};

/// Process 1, which gets the children of those that are gone.
const INIT: Pid = Pid::from_raw(1);

/// Has the kernel send TERM to this process when the thread that started it ends (prctl(2)). `false`:
/// it has ended already. Must be called again after a change of the user, which takes it back.
pub(crate) fn end_with_parent() -> io::Result<bool> {
    let parent = getppid();
    set_pdeathsig(Signal::SIGTERM)?;
    // What ended before the call sends nothing any more.
    Ok(parent != INIT && getppid() == parent)
}
