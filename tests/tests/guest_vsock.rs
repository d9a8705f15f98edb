//! The agent in a booted guest, and libnbd's tools beside it: AF_VSOCK by loopback.

use tests::{Outcome, guest::Guest, need};

const LAB: &str = ". /tools/scripts/lab.sh";

#[test]
fn disks_over_vsock_loopback() -> Outcome<()> {
    if need::guests_are_off("guest_vsock") {
        return Ok(());
    }
    need::guests()?;
    let mut guest = Guest::boot("guest_vsock")?;

    refused(
        &mut guest,
        "a kernel without AF_VSOCK",
        "mkdir -p /etc/modprobe.d
         echo 'install vsock /bin/false' >/etc/modprobe.d/lab.conf
         trap 'rm /etc/modprobe.d/lab.conf' EXIT
         agent --vsock memory 1M",
        "modprobe vsock",
    )?;
    guest.sh("modprobe vsock_loopback")?;
    refused(
        &mut guest,
        "a CID that is not local",
        "agent --listen vsock:77:10809 memory 1M",
        "vsock:77:10809",
    )?;

    guest.check("the agent listens on vsock", &format!("{LAB}\nserve memory --vsock memory 1G"))?;
    refused(&mut guest, "a port in use", "agent --vsock memory 1M", "vsock:10809")?;
    guest.check(
        "a service that may not use AF_VSOCK: refused in one line",
        "systemd-run --quiet --unit forbidden -p 'RestrictAddressFamilies=AF_UNIX AF_INET' \
             /tools/bin/agent --vsock --port 1 memory 1M
         while systemctl --quiet is-active forbidden; do sleep 0.05; done
         journalctl --no-pager --output cat --unit forbidden | grep 'agent: error: .*vsock:1[^0-9]'",
    )?;
    guest.expect("nbdinfo sees the size", "nbdinfo --size nbd+vsock://1", "1073741824")?;
    guest.expect(
        "nbdsh connect_vsock sees the size",
        "nbdsh -c 'h.connect_vsock(1, 10809)' -c 'print(h.get_size())'",
        "1073741824",
    )?;
    guest.check(
        "nbdcopy in and out again, byte for byte",
        "head -c 40000001 /dev/urandom >/run/lab/in
         truncate -s 40000512 /run/lab/in
         nbdcopy /run/lab/in nbd+vsock://1
         nbdcopy nbd+vsock://1 /run/lab/out
         cmp -n 40000512 /run/lab/in /run/lab/out
         stat -c %s /run/lab/out
         rm /run/lab/in /run/lab/out",
    )?;
    for port in [(1_u32 << 31) + 5, u32::MAX - 1] {
        guest.expect(
            &format!("port {port}, above 2^31"),
            &format!(
                "{LAB}
                 serve high --vsock --port {port} memory 64M
                 nbdsh -c 'h.connect_vsock(1, {port})' -c 'print(h.get_size())'"
            ),
            "67108864",
        )?;
        guest.sh(&format!("{LAB}\nstop high"))?;
    }
    Ok(())
}

/// The agent does not start: exit status 1 and one line, which says what it was about.
fn refused(guest: &mut Guest, name: &str, script: &str, about: &str) -> Outcome<()> {
    let ended = guest.run(script)?;
    let one_line = ended.output.lines().count() == 1 && ended.output.starts_with("agent: error: ");
    if ended.status == 1 && one_line && ended.output.contains(about) {
        println!("ok: {name}: {}", ended.output);
        return Ok(());
    }
    Err(guest.failure(&format!("{name}: status {}, said:\n{}", ended.status, ended.output)))
}
