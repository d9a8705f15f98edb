//! AF_VSOCK by loopback inside the VM host.

use tests::{Outcome, guest::Guest, need};

#[test]
fn a_disk_over_vsock_loopback() -> Outcome<()> {
    if need::guests_are_off("guest_vsock") {
        return Ok(());
    }
    need::guests()?;
    let mut guest = Guest::boot("guest_vsock")?;
    guest.check("x", "uname -a; systemctl --no-pager is-system-running; systemd-analyze; ls -la /tools /dev/vsock; lsmod; modprobe vsock_loopback; modprobe vhost_vsock; free -m; ls -la /dev/vhost-vsock")?;
    println!("{:?}", guest.run("false"));
    println!("{}", guest.sh("nbdkit --vsock memory 1G; python3 --version; nbdinfo nbd+vsock://1")?);
    println!("{}", guest.sh("systemd-analyze blame | head -20")?);
    println!("{}", guest.sh("time nbdsh -c 'h.connect_vsock(1, 10809)' -c 'print(h.get_size())'")?);
    Ok(())
}
