//! Loop devices, where this machine lets the test make them.

use std::{path::Path, process::Command};

/// A block device over a file; detached when dropped.
pub(crate) struct Loop {
    pub(crate) device: String,
}

impl Loop {
    /// Says why there is none: a test goes on with what needs none.
    pub(crate) fn over(file: &Path, words: &[&str]) -> Option<Self> {
        let output =
            Command::new("losetup").args(["--find", "--show"]).args(words).arg(file).output();
        let why = match output {
            Ok(output) if output.status.success() => {
                let device = String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned();
                return Some(Self { device });
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!("no loop device here, so the kernel's part is not tried: {why}");
        None
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // It may have been detached by the test.
        Command::new("losetup").args(["--detach", &self.device]).output().ok();
    }
}
