//! The notifications that systemd receives from the agent: sd_notify(3).

use std::{
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{DEADLINE, client::greeted};
use tempfile::TempDir;

use crate::BINARY;

/// An agent and the socket on which it notifies its manager.
struct Managed {
    child: Child,
    manager: UnixDatagram,
    dir: TempDir,
}

impl Managed {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        let child = Command::new(BINARY)
            .arg("-U")
            .arg(dir.path().join("disk"))
            .args(["null", "1M"])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "200000")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let managed = Self { child, manager, dir };
        assert_eq!(managed.hears(), "READY=1");
        managed
    }

    fn hears(&self) -> String {
        let mut bytes = [0; 256];
        let len = self.manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    /// Waits for a notification that starts with `start`, and returns all of it.
    fn waits_for(&self, start: &str) -> String {
        loop {
            let said = self.hears();
            if said.starts_with(start) {
                return said;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        // It may have exited already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn the_watchdog_hears_that_it_is_well_once_it_is_ready() {
    let agent = Managed::start();
    for _ in 0..3 {
        agent.waits_for("WATCHDOG=1");
    }
}

#[test]
fn the_status_is_what_it_does() {
    let mut agent = Managed::start();
    agent.waits_for("STATUS=Serving; no connections");
    let one = greeted(&agent.dir.path().join("disk"));
    agent.waits_for("STATUS=Serving 1 connection");
    let another = greeted(&agent.dir.path().join("disk"));
    agent.waits_for("STATUS=Serving 2 connections");
    drop((one, another));
    agent.waits_for("STATUS=Serving; no connections");
    agent.signal(Signal::SIGTERM);
    assert!(agent.waits_for("STOPPING=1").contains("\nSTATUS=Ending"));
    assert!(agent.child.wait().unwrap().success());
}

#[test]
fn it_is_reloading_until_it_is_ready_again() {
    let agent = Managed::start();
    agent.signal(Signal::SIGHUP);
    let reloading = agent.waits_for("RELOADING=1");
    let since = reloading.split_once("\nMONOTONIC_USEC=").expect("the time").1;
    assert!(since.parse::<u64>().unwrap() > 0, "{reloading}");
    agent.waits_for("READY=1");
}
