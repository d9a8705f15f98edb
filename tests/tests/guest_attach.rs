//! guest-tools attach in a real guest: the kernel's nbd driver, real vsock sockets, real filesystems, and
//! an agent that is killed under them.

use tests::{Outcome, guest::Guest, need};

const LAB: &str = ". /tools/scripts/lab.sh";

#[test]
fn a_block_device_that_survives_its_server() -> Outcome<()> {
    if need::guests_are_off("guest_attach") {
        return Ok(());
    }
    need::guests()?;
    let mut guest = Guest::boot("guest_attach")?;
    guest.sh("modprobe vsock_loopback; mkdir -p /mnt/disk")?;
    guest.check(
        "the agent serves a file over vsock",
        &format!(
            "{LAB}
             truncate -s 512M /run/lab/disk
             serve file --vsock file /run/lab/disk"
        ),
    )?;
    guest.expect(
        "attach loads the driver and prints the device",
        "guest-tools attach --background nbd+vsock://1/",
        "/dev/nbd0",
    )?;
    guest.check("status", "guest-tools status; guest-tools status --json; dmesg | tail -5")?;
    guest.check(
        "mkfs.ext4, mount, write, umount, fsck",
        "mkfs.ext4 -q /dev/nbd0
         mount /dev/nbd0 /mnt/disk
         head -c 30000000 /dev/urandom >/run/lab/in
         cp /run/lab/in /mnt/disk/file
         sync
         umount /mnt/disk
         fsck.ext4 -f -n /dev/nbd0",
    )?;
    guest.expect("detach", "guest-tools detach; guest-tools status", "/dev/nbd0 is detached")?;
    guest.check(
        "attached and detached twenty times, with a write or without",
        "for i in 1 2 3 4 5 6 7 8 9 10; do
             guest-tools attach --background nbd+vsock://1/
             guest-tools detach
             guest-tools attach --background nbd+vsock://1/
             dd if=/dev/zero of=/dev/nbd0 bs=64k count=16 conv=notrunc status=none
             guest-tools detach
         done",
    )?;
    Ok(())
}
