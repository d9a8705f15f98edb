//! The SELinux label of sockets that are made: what libselinux's setsockcreatecon_raw(3) does, which
//! is a write to a file. No `unsafe` in here.
//!
//! `process` calls this around the binding of the listeners.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// The kernel enforces or at least knows a policy.
pub(crate) fn is_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Sockets that this thread makes from now on have `label`; without one, the policy's.
pub(crate) fn label_sockets(label: Option<&str>) -> io::Result<()> {
    let mut text = label.unwrap_or_default().as_bytes().to_vec();
    if !text.is_empty() {
        text.push(0);
    }
    // In one call, also where there is nothing to write: that takes the label back.
    let written =
        File::options().write(true).open("/proc/thread-self/attr/sockcreate")?.write(&text)?;
    if written == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
