//! The agent in a booted guest, together with libnbd's tools: AF_VSOCK over loopback.

use tests::{Outcome, guest::Guest, need};

const LAB: &str = ". /tools/scripts/lab.sh";

#[test]
fn disks_over_vsock_loopback() -> Outcome<()> {
    if !need::guests("guest_vsock")? {
        return Ok(());
    }
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
    who_may_connect(&mut guest)
}

/// A process of the machine itself has CID 1. It is not a guest, neither for rules nor in the log.
fn who_may_connect(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "a local process is no guest: refused, and named so in the log",
        &format!(
            "{LAB}
             serve guests --vsock --port 10820 --allow vsock-guest --allow-cid 3,5-9 memory 1M
             nbdinfo --size nbd+vsock://1:10820 && exit 1
             stop guests
             log guests | grep -E 'refused peer=vsock:1:[0-9]+\\(local\\) export=\"-\" rule=not named by --allow'"
        ),
    )?;
    for (words, size) in [
        ("--allow vsock-local", "1048576"),
        ("--allow vsock-guest,vsock-cid:0-1", "1048576"),
        ("--filter=ip allow=vsock-cid:3,vsock-cid:1 deny=all", "1048576"),
        ("--filter=ip allow=vsock-port:0-4294967295 deny=anyvsock", "1048576"),
        ("--filter=ip deny=anyunix,vsock-guest,vsock-hypervisor,vsock-sibling", "1048576"),
        ("--filter=ip deny=vsock-local", "refused"),
        ("--filter=ip deny=vsock-cid:1", "refused"),
        ("--filter=ip allow=vsock-guest deny=any", "refused"),
    ] {
        guest.expect(
            &format!("a local process: {size} by {words}"),
            &format!(
                "{LAB}
                 serve rules --vsock --port 10821 memory 1M {words}
                 nbdinfo --size nbd+vsock://1:10821 || echo refused
                 stop rules"
            ),
            size,
        )?;
    }
    guest.expect(
        "an access file that HUP reads again",
        &format!(
            "{LAB}
             echo vsock-guest >/run/lab/rules
             serve rules --vsock --port 10822 --access-file /run/lab/rules memory 1M
             nbdinfo --size nbd+vsock://1:10822 && exit 1
             echo vsock-local >>/run/lab/rules
             systemctl kill --signal HUP rules
             until log rules | grep -q 'read again: 2 in /run/lab/rules'; do sleep 0.05; done
             nbdinfo --size nbd+vsock://1:10822"
        ),
        "1048576",
    )?;
    guest.expect(
        "one connection at once from each CID",
        &format!(
            "{LAB}
             serve limit --vsock --port 10823 --limit-per-cid 1 memory 1M
             nbdsh -c 'h.connect_vsock(1, 10823)' -c '
other = nbd.NBD()
try:
    other.connect_vsock(1, 10823)
    print(\"let in\")
except nbd.Error:
    print(\"refused\")'"
        ),
        "refused",
    )
}

/// The agent does not start: exit status 1 and one line, which mentions `about`.
fn refused(guest: &mut Guest, name: &str, script: &str, about: &str) -> Outcome<()> {
    let ended = guest.run(script)?;
    let one_line = ended.output.lines().count() == 1 && ended.output.starts_with("agent: error: ");
    if ended.status == 1 && one_line && ended.output.contains(about) {
        println!("ok: {name}: {}", ended.output);
        return Ok(());
    }
    Err(guest.failure(&format!("{name}: status {}, said:\n{}", ended.status, ended.output)))
}
