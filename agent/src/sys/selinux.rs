//! The SELinux label of new sockets. Does the same as libselinux's setsockcreatecon_raw(3), a write to a file. No
//! `unsafe` in here.
//!
//! `process` calls this around the binding of the listeners.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Whether the kernel has an SELinux policy, enforced or not.
pub(crate) fn is_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Gives `label` to the sockets that this thread makes from now on. `None` restores the policy's label.
pub(crate) fn label_sockets(label: Option<&str>) -> io::Result<()> {
    let mut text = label.unwrap_or_default().as_bytes().to_vec();
    if !text.is_empty() {
        text.push(0);
    }
    // In one call, even if there is nothing to write: an empty write takes the label back.
    let written =
        File::options().write(true).open("/proc/thread-self/attr/sockcreate")?.write(&text)?;
    if written == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
