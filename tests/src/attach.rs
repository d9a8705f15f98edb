//! What the guest tests of `guest-tools attach` share, for both drivers of the kernel.

use std::time::Duration;

use images::Tool;

use crate::{Outcome, guest::Guest, need};

/// The first line of every script.
pub const WORDS: &str = ". /tools/scripts/lab.sh; . /tools/scripts/attach.sh";
/// The time limit for work on a disk that takes about a minute, under KVM.
pub const LONG: Duration = Duration::from_mins(4);

/// A driver of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Driver {
    /// The options of attach.
    pub option: &'static str,
    /// The options of attach for a device that may differ from the first.
    pub another: &'static str,
    /// The driver's first device.
    pub device: &'static str,
}

/// The nbd driver.
pub const NBD: Driver =
    Driver { option: "--device /dev/nbd0", another: "--device /dev/nbd0", device: "/dev/nbd0" };
/// The ublk driver.
pub const UBLK: Driver =
    Driver { option: "--ublk", another: "--device /dev/ublkb3", device: "/dev/ublkb0" };

/// Boots a guest with an agent that serves /run/lab/disk on its own port 10809. `None` if guests are turned
/// off.
pub fn guest(name: &str) -> Outcome<Option<Guest>> {
    if !need::guests(name)? {
        return Ok(None);
    }
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-tools/systemd/guest-disk@.service");
    let unit = Tool { name: "guest-disk@.service".to_owned(), source: unit.into() };
    let mut guest = Guest::boot_with(name, &[unit])?;
    guest.sh("modprobe vsock_loopback; mkdir -p /mnt/disk; dmesg --clear")?;
    guest.check(
        "the agent serves a file over vsock",
        &format!(
            "{WORDS}; truncate -s 512M /run/lab/disk; lasting file --vsock file /run/lab/disk"
        ),
    )?;
    Ok(Some(guest))
}

/// Attaches and detaches a device, with and without writes.
pub fn comes_and_goes(guest: &mut Guest, driver: Driver) -> Outcome<()> {
    let Driver { option, another, device } = driver;
    guest.expect(
        "attach loads the driver and prints the device",
        &format!("guest-tools attach --background {option} nbd+vsock://1/"),
        device,
    )?;
    guest.check("status", "guest-tools status; guest-tools status --json; dmesg | tail -5")?;
    guest.expect(
        "detach",
        "guest-tools detach; guest-tools status",
        &format!("{device} is detached"),
    )?;
    guest.check(
        "attached and detached twenty times, with a write or without",
        &format!(
            "for i in 1 2 3 4 5 6 7 8 9 10; do
                 guest-tools attach --background {another} nbd+vsock://1/
                 guest-tools detach
                 guest-tools attach --background {option} nbd+vsock://1/
                 dd if=/dev/zero of={device} bs=64k count=16 conv=notrunc status=none
                 guest-tools detach
             done"
        ),
    )?;
    Ok(())
}

/// `filesystem_under_kills` for each filesystem that the image has.
pub fn filesystems_under_kills(guest: &mut Guest, driver: Driver) -> Outcome<()> {
    for commands in [
        ("mkfs.ext4 -q -F", "e2fsck -f -n"),
        ("mkfs.xfs -q -f", "xfs_repair -n"),
        ("mkfs.btrfs -q -f", "btrfs check --readonly"),
    ] {
        filesystem_under_kills(guest, driver, commands)?;
    }
    Ok(())
}

/// Writes at random with flushes for a minute, while the agent is killed ten times. Everything is read back
/// and checked.
pub fn verified_under_ten_kills(guest: &mut Guest, driver: Driver) -> Outcome<()> {
    let Driver { option, device, .. } = driver;
    let script = format!(
        "{WORDS}
         guest-tools attach --background {option} nbd+vsock://1/
         dmesg --clear
         fio --name=verify --filename={device} --size=256M --direct=1 --ioengine=libaio \\
             --iodepth=16 --rw=randwrite --bs=4k --fsync=32 --verify=crc32c --verify_fatal=1 \\
             --verify_backlog=256 --time_based --runtime=60 --output=/run/lab/fio &
         fio=$!
         killed file 10 5
         wait $fio || {{ cat /run/lab/fio; dmesg; exit 1; }}
         grep -E 'err=|IOPS|issued' /run/lab/fio
         clean
         guest-tools status
         [ \"$(said reconnects)\" = 10 ]
         guest-tools detach"
    );
    println!("{}", guest.sh_within(&script, LONG)?);
    println!("ok: fio verifies for a minute while the agent is killed ten times");
    Ok(())
}

/// Makes, fills and unmounts a filesystem while the agent is killed. Then checks it, and reads the data back
/// from the disk.
fn filesystem_under_kills(
    guest: &mut Guest,
    driver: Driver,
    (make, check): (&str, &str),
) -> Outcome<()> {
    let Driver { option, device, .. } = driver;
    let script = format!(
        "{WORDS}
         guest-tools attach --background {option} nbd+vsock://1/
         dmesg --clear
         killed file 4 1 >/run/lab/killed 2>&1 &
         killer=$!
         {make} {device}
         mount {device} /mnt/disk
         n=0
         while kill -0 $killer 2>/dev/null || [ $n -lt 8 ]; do
             n=$((n + 1))
             head -c 3000001 /dev/urandom >/run/lab/in
             cp /run/lab/in /mnt/disk/$((n % 40))
             sync /mnt/disk/$((n % 40))
             ( cd /run/lab; echo \"$(sha256sum <in | cut -c1-64)  $((n % 40))\" >sum.$((n % 40)) )
         done
         wait $killer || {{ cat /run/lab/killed; exit 1; }}
         umount /mnt/disk
         {check} {device} >/run/lab/fsck 2>&1 || {{ cat /run/lab/fsck; exit 1; }}
         echo 3 >/proc/sys/vm/drop_caches
         mount {device} /mnt/disk
         cat /run/lab/sum.* >/run/lab/sums
         rm /run/lab/sum.*
         ( cd /mnt/disk; sha256sum --quiet -c /run/lab/sums )
         echo \"$n files, $(said reconnects) reconnects, $(said repeated) requests repeated, \\
$(said replayed) replayed\"
         umount /mnt/disk
         clean
         guest-tools detach"
    );
    println!("{}", guest.sh_within(&script, LONG)?);
    println!("ok: {make}: filled while the agent is killed four times, checked and read back");
    Ok(())
}
