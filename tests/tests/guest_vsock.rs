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
    guest.sh("modprobe vsock_loopback")?;

    guest.check("the agent listens on vsock", &format!("{LAB}\nserve memory --vsock memory 1G"))?;
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
