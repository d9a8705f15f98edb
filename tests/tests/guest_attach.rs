//! guest-tools attach in a real guest: the kernel's nbd driver, real vsock sockets, real filesystems, and
//! an agent that is killed under them. Guest and host are one machine here, over vsock's loopback: the
//! client's way through its kernel is the same.

use std::time::Duration;

use tests::{Outcome, guest::Guest, need};

/// What every script begins with.
const WORDS: &str = ". /tools/scripts/lab.sh; . /tools/scripts/attach.sh";
/// For what works on a disk for a minute, under KVM.
const LONG: Duration = Duration::from_mins(4);

#[test]
fn a_block_device_that_survives_its_server() -> Outcome<()> {
    if need::guests_are_off("guest_attach") {
        return Ok(());
    }
    need::guests()?;
    let mut guest = Guest::boot("guest_attach")?;
    guest.sh("modprobe vsock_loopback; mkdir -p /mnt/disk")?;
    comes_and_goes(&mut guest)?;
    verified_under_ten_kills(&mut guest)?;
    for (make, check) in [
        ("mkfs.ext4 -q -F", "e2fsck -f -n"),
        ("mkfs.xfs -q -f", "xfs_repair -n"),
        ("mkfs.btrfs -q -f", "btrfs check --readonly"),
    ] {
        filesystem_under_kills(&mut guest, make, check)?;
    }
    Ok(())
}

fn comes_and_goes(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "the agent serves a file over vsock",
        &format!(
            "{WORDS}; truncate -s 512M /run/lab/disk; lasting file --vsock file /run/lab/disk"
        ),
    )?;
    guest.expect(
        "attach loads the driver and prints the device",
        "guest-tools attach --background nbd+vsock://1/",
        "/dev/nbd0",
    )?;
    guest.check("status", "guest-tools status; guest-tools status --json; dmesg | tail -5")?;
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

/// A minute of random writes with flushes, read back and checked, while the agent is killed ten times.
fn verified_under_ten_kills(guest: &mut Guest) -> Outcome<()> {
    let script = format!(
        "{WORDS}
         guest-tools attach --background nbd+vsock://1/
         dmesg --clear
         fio --name=verify --filename=/dev/nbd0 --size=256M --direct=1 --ioengine=libaio \\
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

/// A filesystem is made, filled and unmounted while the agent is killed; then it is checked, and what was
/// written is read back from the disk.
fn filesystem_under_kills(guest: &mut Guest, make: &str, check: &str) -> Outcome<()> {
    let script = format!(
        "{WORDS}
         guest-tools attach --background nbd+vsock://1/
         dmesg --clear
         killed file 4 1 >/run/lab/killed 2>&1 &
         killer=$!
         {make} /dev/nbd0
         mount /dev/nbd0 /mnt/disk
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
         {check} /dev/nbd0 >/run/lab/fsck 2>&1 || {{ cat /run/lab/fsck; exit 1; }}
         echo 3 >/proc/sys/vm/drop_caches
         mount /dev/nbd0 /mnt/disk
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
