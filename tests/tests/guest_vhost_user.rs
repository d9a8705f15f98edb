//! Guests whose vsock device ends inside the agent: no kernel module, no root, one socket per VM.

use std::{
    fs::{self, File},
    time::{Duration, Instant},
};

use tests::{
    Failure, Outcome,
    lab::Lab,
    nest::words_after_the_dashes,
    qemu::{Accel, Machine},
    vhost_user::{listen, old_tiny, tiny},
};

const PATIENCE: Duration = Duration::from_mins(2);
/// At most the size of the guest's one binary, in bytes.
const SMALL: u64 = 4_000_000;
/// The size of a disk that is filled with the pattern, in bytes; `16M` on the command line.
const PATTERN: u64 = 16 << 20;

#[test]
fn a_guest_has_a_disk_without_any_kernel_module() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user")? else { return Ok(()) };
    let (one, two) = (lab.path("one"), lab.path("two"));
    let agent = lab.agent_for(&one, &["memory", "64M"])?;

    let begun = Instant::now();
    let commands = ["info", "write --pattern --length 64M", "read --verify-pattern"];
    let size =
        fs::metadata(lab.images().binaries()?.guest_tools).map_or(u64::MAX, |file| file.len());
    if size >= SMALL {
        return Err(Failure::new(format!(
            "guest-tools has {size} bytes, and is to have less than 4 MB"
        )));
    }
    let mut guest = tiny(&lab, "vhost-user-1", &one, &commands)?;
    guest.wait_for_each(&["export-size: 67108864 (64M)", "guest-tools: done after"], PATIENCE)?;
    println!(
        "ok: the guest has its disk {:.1} s after QEMU's start",
        begun.elapsed().as_secs_f32()
    );
    guest.wait_for_each(&["done after"; 2], PATIENCE)?;
    println!("ok: 64 MiB written and read back");
    guest.wait_for_end(PATIENCE)?;
    agent.wait_for("is gone: waiting for the next")?;

    // The data of the first VM is there for the next VM on this path. No listener has the other port.
    let nobody = ["info nbd+vsock://2:10810/", "read --verify-pattern"];
    let mut guest = tiny(&lab, "vhost-user-2", &one, &nobody)?;
    guest.wait_for_each(&["guest-tools: failed after", "guest-tools: done after"], PATIENCE)?;
    guest.wait_for_end(PATIENCE)?;
    println!("ok: the next VM on that path; a port that nobody listens on fails at once");

    // A VMM that is killed while its guest writes.
    let mut guest = tiny(&lab, "vhost-user-3", &one, &["write --pattern --length 64M"; 20])?;
    guest.wait_for("guest-tools: done after", PATIENCE)?;
    drop(guest);
    // The two earlier VMs have gone too.
    agent.wait_for_count("is gone: waiting for the next", 3)?;
    let mut guest = tiny(&lab, "vhost-user-4", &one, &["read --verify-pattern --length 1M"])?;
    guest.wait_for("done after", PATIENCE)?;
    guest.wait_for_end(PATIENCE)?;
    println!("ok: the agent outlives a VMM that is killed in the middle of writes");
    drop(agent);

    // One agent, two VMs, and a rule for one of them.
    let agent = lab.agent([
        &listen(&one),
        &listen(&two),
        "--limit-per-cid=1",
        "--allow=vsock-guest",
        "pattern",
        "32M",
    ])?;
    let read = ["read --verify-pattern"; 2];
    let mut first = tiny(&lab, "vhost-user-5", &one, &read)?;
    let mut second = tiny(&lab, "vhost-user-6", &two, &read)?;
    for guest in [&mut first, &mut second] {
        let console = guest.wait_for_end(PATIENCE)?;
        let done = console.iter().filter(|line| line.contains("guest-tools: done after")).count();
        if done != read.len() {
            return Err(guest.failure("did not read its disk"));
        }
    }
    agent.wait_for(&format!("peer=vm:{}", two.display()))?;
    println!("ok: two VMs at once");
    Ok(())
}

/// With either driver of the kernel. The image has no shell, no modprobe and no udev.
#[test]
fn a_tiny_guest_has_a_block_device() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user")? else { return Ok(()) };
    let (socket, disk) = (lab.path("one"), lab.path("disk"));
    let empty = File::create(&disk).and_then(|file| file.set_len(PATTERN));
    empty.map_err(|e| Failure::of("no disk", &e))?;
    let agent = lab.agent_for(&socket, &["file", &disk.to_string_lossy()])?;
    let commands = [
        "write --pattern --length 16M",
        "attach --background",
        "status",
        "copy /dev/ublkb0 /whole",
        "zero --length 16M",
        "copy --verify /whole /dev/ublkb0",
        "detach",
        "read --verify-pattern",
        "zero --length 16M",
        "attach --background --device /dev/nbd0",
        "copy --verify /whole /dev/nbd0",
        "status --json",
        "detach /dev/nbd0",
        "read --verify-pattern",
        "status",
    ];
    let mut guest = tiny(&lab, "vhost-user-attach", &socket, &commands)?;
    guest.wait_for_each(
        &[
            "/dev/ublkb0",
            "done after",
            "/dev/ublkb0: nbd+vsock://2/, connected for",
            "done after",
            "done after",
            "done after",
            "done after",
            "/dev/ublkb0 is detached",
            "done after",
            "done after",
            "done after",
            "/dev/nbd0",
            "done after",
            "done after",
            "\"device\": \"/dev/nbd0\"",
            "done after",
            "/dev/nbd0 is detached",
            "done after",
            "done after",
            "done after",
        ],
        PATIENCE,
    )?;
    guest.wait_for_end(PATIENCE)?;
    drop(agent);
    let bytes = fs::read(&disk).map_err(|e| Failure::of("no disk", &e))?;
    if !(0..PATTERN).step_by(8).flat_map(u64::to_be_bytes).eq(bytes) {
        return Err(Failure::new("the agent's file is not what was written to the devices"));
    }
    println!(
        "ok: a block device by ublk and one by nbd, read and written; the agent's file has the bytes"
    );
    Ok(())
}

/// The oldest kernel of Debian that is available: Linux 6.1 of bookworm. It has no ublk driver, and its
/// nbd driver refuses vsock sockets too.
#[test]
fn a_guest_with_an_older_kernel_has_a_block_device() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user")? else { return Ok(()) };
    let socket = lab.path("one");
    let agent = lab.agent_for(&socket, &["memory", "16M"])?;
    let commands = [
        "write --pattern --length 16M",
        "attach --background --direct --device /dev/nbd0",
        "copy /dev/nbd0 /whole",
        "detach",
        "zero --length 16M",
        "attach --background --device /dev/nbd0",
        "copy --verify /whole /dev/nbd0",
        "status",
        "detach",
        "read --verify-pattern",
    ];
    let mut guest = old_tiny(&lab, "vhost-user-old", &socket, &commands)?;
    guest.wait_for_each(
        &[
            "done after",
            "/dev/nbd0",
            "done after",
            "done after",
            "/dev/nbd0 is detached",
            "done after",
            "done after",
            "/dev/nbd0",
            "done after",
            "done after",
            "/dev/nbd0: nbd+vsock://2/, connected for",
            "done after",
            "/dev/nbd0 is detached",
            "done after",
            "done after",
        ],
        PATIENCE,
    )?;
    let console = guest.wait_for_end(PATIENCE)?;
    drop(agent);
    let release = lab.images().old_kernel()?.release;
    let refused =
        console.iter().any(|line| line.contains("Unsupported socket: should be TCP or UNIX"));
    println!("ok: Linux {release}: attached and detached; --direct over vsock refused: {refused}");
    Ok(())
}

#[test]
fn a_guest_finds_out_why_and_uses_its_disk_by_every_command() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user")? else { return Ok(()) };
    let socket = lab.path("one");
    let agent = lab.agent_for(&socket, &["memory", "64M"])?;
    let commands = [
        "probe --wait 30s",
        "probe --json nbd+vsock://2:10810/",
        "probe nbd+vsock://9/",
        "list",
        "write --pattern --offset 1M --length 4k",
        "zero --offset 1M --length 16 --fua",
        "trim --offset 32M --length 1M",
        "dump --offset 1M --length 48",
        "map",
        "info --can write",
        "info --is read-only",
        "test --destroy --length 2M",
        "test --read-only --length 2M",
        "copy nbd+vsock://2/ /copy",
        "copy --verify /copy nbd+vsock://2/",
        "bench --time 200ms --size 4k --depth 4",
    ];
    let mut guest = tiny(&lab, "vhost-user-probe", &socket, &commands)?;
    guest.wait_for_each(
        &[
            "ok       device: virtio0 is driven by vmw_vsock_virtio_transport",
            "ok       socket: socket(AF_VSOCK) succeeds",
            "ok       node: /dev/vsock opens",
            "ok       cid: ",
            "ok       connect: nbd+vsock://2/ takes connections",
            "ok       export: \"\": 67108864 bytes (64.0 MiB)",
            "done after",
            "no process listens on vsock port 10810 of the host",
            "failed after",
            "fault    connect: nbd+vsock://9/",
            "failed after",
            "export-size: 67108864 (64M)",
            "zeroed",
            "trimmed",
            "0000100000: 00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00 |................|",
            "0000100010: 00 00 00 00 00 10 00 10",
            "hole,zero",
            "done after",
            "done after",
            "failed after",
            "done after",
            "done after",
            "done after",
            "done after",
            "done after",
        ],
        PATIENCE,
    )?;
    guest.wait_for_end(PATIENCE)?;
    drop(agent);
    println!("ok: probe tells the device, the CID and the connection; every command works");

    let boot = lab.images().tiny()?;
    let machine = Machine::new("no-vsock", boot).append(&words_after_the_dashes(&[
        "probe --wait 200ms",
        "info",
        "connect 10809",
    ]));
    let mut guest = machine.start(Accel::of_this_machine(lab.images())?)?;
    guest.wait_for_each(
        &[
            "fault    device: none among",
            "hint: give the VM one: QEMU's '-device vhost-vsock-pci,guest-cid=N'",
            "fault    cid: none",
            "fault    connect: nbd+vsock://2/",
            "this machine has no vsock device",
            "failed after",
            "this machine has no vsock device",
            "failed after",
            "this machine has no vsock device",
            "failed after",
        ],
        PATIENCE,
    )?;
    guest.wait_for_end(PATIENCE)?;
    println!("ok: a guest without the device is told that it has none, and what to do");
    Ok(())
}
