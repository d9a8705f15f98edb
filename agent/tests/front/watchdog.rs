//! systemd's watchdog hears from the agent as long as it is well.

use std::{os::unix::net::UnixDatagram, process::Command};

use crate::agent::{BINARY, PATIENCE};

#[test]
fn it_says_that_it_is_well_once_it_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut agent = Command::new(BINARY)
        .args(["-U", "-", "null", "1M"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .env("TMPDIR", dir.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    while said.iter().filter(|line| *line == "WATCHDOG=1").count() < 3 {
        let mut bytes = [0; 256];
        let len = manager.recv(&mut bytes).unwrap();
        said.extend(String::from_utf8_lossy(&bytes[..len]).lines().map(str::to_owned));
    }
    assert_eq!(said[0], "READY=1", "{said:?}");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(agent.id().try_into().unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert!(agent.wait().unwrap().success());
}
