//! A machine that stands still: QEMU with `-S`, without a guest. Its QMP socket listens before QEMU starts.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running QEMU, killed when dropped.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    qmp: PathBuf,
    _dir: tempfile::TempDir,
}

impl Machine {
    /// Starts a machine of this type with these devices. Debian: qemu-system-x86.
    pub fn start(machine: &str, devices: &[&str]) -> Self {
        Self::start_with(machine, devices, &[])
    }

    /// As [`Self::start`], with more arguments of QEMU's.
    pub fn start_with(machine: &str, devices: &[&str], arguments: &[String]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let qmp = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&qmp).expect("a socket");
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-machine", machine, "-S", "-nodefaults", "-display", "none"])
            .args(["-accel", "tcg", "-m", "64"])
            .args(["-chardev", "socket,id=qmp,fd=0,server=on,wait=off"])
            .args(["-mon", "chardev=qmp,mode=control"])
            .args(arguments)
            .args(devices.iter().flat_map(|device| ["-device", *device]))
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()
            .expect(
                "no qemu-system-x86_64: apt-get install --no-install-recommends qemu-system-x86",
            );
        Self { qemu, qmp, _dir: dir }
    }

    /// The QMP socket. It takes one client at a time; the next one waits for its turn.
    pub fn qmp(&self) -> &Path {
        &self.qmp
    }

    /// Waits until QEMU has ended successfully.
    pub fn assert_ends(&mut self) {
        assert!(self.qemu.wait().expect("QEMU").success());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}
