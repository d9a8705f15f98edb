//! A machine whose processors do not run: QEMU with `-S`, no guest, and QMP on a socket that exists before QEMU
//! starts.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::{Child, Command, Stdio},
};

use qemu::qmp::{Client, Limits};

pub(crate) struct Machine {
    qemu: Child,
    _dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) async fn start(machine: &str, devices: &[&str]) -> (Self, Client) {
        Self::start_with(machine, devices, &[]).await
    }

    pub(crate) async fn start_with(
        machine: &str,
        devices: &[&str],
        arguments: &[String],
    ) -> (Self, Client) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
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
        let machine = Self { qemu, _dir: dir };
        let client = Client::connect(&path, Limits::default()).await.expect("QMP");
        (machine, client)
    }
}

impl Machine {
    /// Waits until QEMU has ended with status 0.
    pub(crate) fn ended(&mut self) {
        assert!(self.qemu.wait().expect("QEMU").success());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}
