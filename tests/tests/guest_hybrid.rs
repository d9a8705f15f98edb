//! `--listen hybrid:`, the convention of Firecracker and Cloud Hypervisor for a guest's vsock, with the VMM's
//! end of a real implementation: rust-vmm's vhost-device-vsock. It turns a guest's connection to a port into
//! one to the Unix socket `PATH_PORT`, as those two VMMs do themselves. They need KVM; this one runs under
//! emulation.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use support::until;
use tests::{Failure, Outcome, lab::Lab, vhost_user};

const PATIENCE: Duration = Duration::from_mins(2);
/// The size of the disk, in bytes.
const SIZE: u64 = 64 << 20;
/// How many bytes the guest writes. vhost-device-vsock 0.3 stalls at a write of 32 KiB, and with nbdkit too
/// at 1 MiB.
const WRITTEN: usize = 2 << 10;

/// rust-vmm's device, which is killed when dropped.
struct Device(Child);

impl Device {
    /// Guests connect to `socket`; their connections go to `uds`_PORT.
    fn start(uds: &Path, socket: &Path) -> Outcome<Self> {
        // `tests/run` installs it there.
        let program: PathBuf =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../target/vsock-peer/bin/vhost-device-vsock")
                .into();
        let vm = format!("guest-cid=3,uds-path={},socket={}", uds.display(), socket.display());
        let started = Command::new(&program).args(["--vm", &vm]).stderr(Stdio::null()).spawn();
        let what = "cannot start vhost-device-vsock: cargo install --locked --version 0.3.0 --root \
                    target/vsock-peer vhost-device-vsock";
        let device = Self(started.map_err(|e| Failure::of(what, &e))?);
        // It does not report when it listens.
        until("vhost-device-vsock listens", || socket.exists());
        Ok(device)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may have exited already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_guest_of_another_vmm_has_its_disk() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_hybrid")? else { return Ok(()) };
    let path = |name: &str| lab.path(name);
    let disk = path("disk");
    // The bytes of nbdkit-pattern-plugin(1), except where the guest writes.
    let pattern: Vec<u8> = (0..SIZE / 8).flat_map(|word| (word * 8).to_be_bytes()).collect();
    let mut bytes = pattern.clone();
    bytes[..WRITTEN].fill(0);
    fs::write(&disk, bytes).map_err(|e| Failure::of("no disk", &e))?;
    let (one, two) = (path("one"), path("two"));
    let listen = |uds: &Path| format!("--listen=hybrid:{}", uds.display());
    let words = [listen(&one), listen(&two), "file".into(), disk.display().to_string()];
    let agent = lab.agent(&words)?;

    // Two VMs at the same time. A connection to a port without a listener fails.
    let (first, second) = (path("one.device"), path("two.device"));
    let devices = [Device::start(&one, &first)?, Device::start(&two, &second)?];
    let commands = [
        "info",
        "write --pattern --length 2k",
        "read --verify-pattern",
        "info nbd+vsock://2:10810/",
    ];
    let mut guest = vhost_user::tiny(&lab, "hybrid-1", &first, &commands)?;
    let mut other = vhost_user::tiny(&lab, "hybrid-2", &second, &["info", "info --can write"])?;
    guest.wait_for_each(
        &["export-size: 67108864 (64M)", "done after", "done after", "done after"],
        PATIENCE,
    )?;
    guest.wait_for("guest-tools: failed after", PATIENCE)?;
    guest.wait_for_end(PATIENCE)?;
    other.wait_for("export-size: 67108864 (64M)", PATIENCE)?;
    other.wait_for_end(PATIENCE)?;
    // Either may come first.
    agent.wait_for_count(&format!("peer=vm:{}", one.display()), 1)?;
    agent.wait_for_count(&format!("peer=vm:{}", two.display()), 1)?;
    if fs::read(&disk).map_err(|e| Failure::of("no disk", &e))? != pattern {
        return Err(Failure::new("what the guest wrote is not on the disk"));
    }
    println!("ok: two guests, each known by its VM's path");

    // The socket of a live agent is not taken, that of a dead agent is. The disk is there for the next VM.
    let program = lab.images().binaries()?.agent;
    let refused = Command::new(program).args(&words).output();
    let refused = refused.map_err(|e| Failure::of("cannot start the agent", &e))?;
    let said = String::from_utf8_lossy(&refused.stderr);
    if refused.status.success() || !said.contains("another process listens there") {
        return Err(Failure::new(format!("a live agent's socket was taken: {said}")));
    }
    drop(agent);
    let _agent = lab.agent(&words)?;
    let third = path("three.device");
    drop(devices);
    fs::remove_file(&one).ok();
    let _device = Device::start(&one, &third)?;
    let verify = ["read --verify-pattern"];
    let mut guest = vhost_user::tiny(&lab, "hybrid-3", &third, &verify)?;
    guest.wait_for("guest-tools: done after", PATIENCE)?;
    guest.wait_for_end(PATIENCE)?;
    println!("ok: a dead agent's socket is taken over, a live one's is not");
    Ok(())
}
