//! guest-tools attach --ublk in a real guest: like guest_attach, with the kernel's ublk driver, which keeps
//! the device when the relay itself is killed.

use tests::{
    Outcome,
    attach::{
        LONG, UBLK, WORDS, comes_and_goes, filesystems_under_kills, guest, verified_under_ten_kills,
    },
    guest::Guest,
};

#[test]
fn a_block_device_of_ublk_that_survives_its_server() -> Outcome<()> {
    let Some(mut guest) = guest("ublk-fio")? else { return Ok(()) };
    comes_and_goes(&mut guest, UBLK)?;
    guest.check("detached devices leave no state", "[ -z \"$(ls /run/guest-tools)\" ]")?;
    every_request(&mut guest)?;
    verified_under_ten_kills(&mut guest, UBLK)
}

#[test]
fn filesystems_on_ublk_survive_the_server_of_their_disk() -> Outcome<()> {
    let Some(mut guest) = guest("ublk-mkfs")? else { return Ok(()) };
    filesystems_under_kills(&mut guest, UBLK)
}

#[test]
fn a_device_of_ublk_survives_its_relay() -> Outcome<()> {
    let Some(mut guest) = guest("ublk-relay")? else { return Ok(()) };
    relays_follow_each_other(&mut guest)?;
    unit(&mut guest)?;
    errors(&mut guest)
}

/// Reads, writes, flushes, discards and zeroes reach the server as such.
fn every_request(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "each kind of request does its work on the server's file",
        "guest-tools attach --background --ublk nbd+vsock://1/
         head -c 8M /dev/urandom >/run/lab/in
         dd if=/run/lab/in of=/dev/ublkb0 bs=1M oflag=direct conv=notrunc,fsync status=none
         cmp -n 8M /run/lab/in /run/lab/disk
         before=$(stat -c %b /run/lab/disk)
         blkdiscard -o 1M -l 1M /dev/ublkb0
         blkdiscard -z -o 3M -l 1M /dev/ublkb0
         for at in 1 3; do cmp -n 1M -i ${at}M:0 /run/lab/disk /dev/zero; done
         [ \"$(stat -c %b /run/lab/disk)\" -lt \"$before\" ]
         cmp -n 1M -i 2M /run/lab/in /run/lab/disk
         dd if=/dev/ublkb0 bs=1M count=8 iflag=direct status=none | cmp -n 8M - /run/lab/disk
         guest-tools detach
         guest-tools attach --background --ublk --read-only nbd+vsock://1/
         [ \"$(blockdev --getro /dev/ublkb0)\" = 1 ]
         ! dd if=/dev/zero of=/dev/ublkb0 bs=4k count=1 oflag=direct 2>/dev/null
         guest-tools detach",
    )?;
    Ok(())
}

/// The relay is killed while it writes, and another relay continues with its device.
fn relays_follow_each_other(guest: &mut Guest) -> Outcome<()> {
    let script = format!(
        "{WORDS}
         guest-tools attach --background --ublk nbd+vsock://1/
         dmesg --clear
         fio --name=verify --filename=/dev/ublkb0 --size=128M --direct=1 --ioengine=libaio \\
             --iodepth=16 --rw=randwrite --bs=4k --fsync=32 --verify=crc32c --verify_fatal=1 \\
             --verify_backlog=256 --time_based --runtime=25 --output=/run/lab/fio &
         fio=$!
         for turn in 1 2 3 4 5; do
             sleep 2
             pid=$(said pid)
             kill -KILL $pid
             [ \"$(said state)\" = unattended ]
             refuses 'has no relay, and may have unflushed data' guest-tools detach
             guest-tools attach --background --device /dev/ublkb0 nbd+vsock://1/
             [ \"$(said pid)\" != $pid ]
             killed file 1 1
         done
         wait $fio || {{ cat /run/lab/fio; dmesg; exit 1; }}
         grep -E 'err=|IOPS|issued' /run/lab/fio
         clean
         guest-tools detach"
    );
    println!("{}", guest.sh_within(&script, LONG)?);
    println!("ok: fio verifies while the relay is killed five times, and the agent between");
    Ok(())
}

/// The template unit, whose name selects the driver.
fn unit(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "systemd starts the relay again under a mounted filesystem",
        &format!(
            "{WORDS}
             cp /tools/guest-disk@.service /etc/systemd/system/
             ln -sf \"$(command -v guest-tools)\" /usr/bin/guest-tools
             mkdir -p /etc/guest-disk
             echo ADDRESS=nbd+vsock://1/ >/etc/guest-disk/ublkb0
             systemctl daemon-reload
             systemctl start guest-disk@ublkb0
             mkfs.ext4 -q -F /dev/ublkb0
             mount /dev/ublkb0 /mnt/disk
             dmesg --clear
             for turn in 1 2 3; do
                 pid=$(said pid)
                 systemctl kill --signal=KILL guest-disk@ublkb0
                 echo $turn >/mnt/disk/$turn; sync /mnt/disk/$turn
                 [ \"$(said pid)\" != $pid ]
             done
             [ \"$(cat /mnt/disk/[123])\" = \"$(printf '1\\n2\\n3')\" ]
             clean
             umount /mnt/disk
             e2fsck -f -n /dev/ublkb0
             systemctl stop guest-disk@ublkb0
             [ -z \"$(guest-tools status)\" ]
             systemctl --quiet is-failed guest-disk@ublkb0 && exit 1
             true"
        ),
    )?;
    Ok(())
}

fn errors(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "a relay that lives keeps its device and its server",
        &format!(
            "{WORDS}
             guest-tools attach --background --ublk nbd+vsock://1/
             refuses 'another process has it' guest-tools attach --device /dev/ublkb0 nbd+vsock://1/
             dd if=/dev/ublkb0 of=/dev/null bs=4k count=16 iflag=direct
             [ \"$(said reconnects)\" = 0 ]
             mkfs.ext4 -q -F /dev/ublkb0
             mount /dev/ublkb0 /mnt/disk
             refuses '/dev/ublkb0 is in use: unmount it first' guest-tools detach
             umount /mnt/disk"
        ),
    )?;
    guest.check(
        "a server that ended while no relay was there may have lost something, and is refused",
        &format!(
            "{WORDS}
             dd if=/dev/zero of=/dev/ublkb0 bs=4k count=1 oflag=direct conv=notrunc status=none
             kill -KILL $(said pid)
             refuses 'may have unflushed data' guest-tools detach
             before=$(cat /run/lab/file.pid)
             systemctl kill --signal=KILL file
             until [ \"$(cat /run/lab/file.pid)\" != \"$before\" ]; do sleep 0.1; done
             refuses 'started anew while no relay was there' \\
                 guest-tools attach --wait 10s --device /dev/ublkb0 nbd+vsock://1/
             guest-tools detach --force
             [ -z \"$(guest-tools status)\" ]
             [ ! -e /dev/ublkb0 ]"
        ),
    )?;
    guest.check(
        "a device whose relay died with nothing unflushed goes without force, also without its server",
        &format!(
            "{WORDS}
             guest-tools attach --background --ublk nbd+vsock://1/
             dd if=/dev/zero of=/dev/ublkb0 bs=4k count=4 conv=notrunc,fsync status=none
             kill -KILL $(said pid)
             systemctl stop file
             sleep 1000 </dev/ublkb0 &
             refuses 'may have unflushed data' guest-tools detach
             kill $!
             wait $! || true
             guest-tools detach
             [ -z \"$(guest-tools status)\" ]
             [ ! -e /dev/ublkb0 ]
             lasting file --vsock file /run/lab/disk"
        ),
    )?;
    guest.check(
        "by force a device goes though its server is away and requests wait",
        &format!(
            "{WORDS}
             guest-tools attach --background --ublk nbd+vsock://1/
             systemctl stop file
             dd if=/dev/ublkb0 of=/dev/null bs=4k count=1 iflag=direct 2>/run/lab/dd &
             dd=$!
             until grep -q '[1-9]' /sys/block/ublkb0/inflight; do sleep 0.1; done
             guest-tools detach --force
             ! wait $dd
             [ -z \"$(guest-tools status)\" ]"
        ),
    )?;
    guest.check(
        "after the dead timeout there are errors, and then the disk again",
        &format!(
            "{WORDS}
             lasting file --vsock file /run/lab/disk
             guest-tools attach --background --ublk --dead-timeout 2s nbd+vsock://1/
             systemctl stop file
             ! dd if=/dev/ublkb0 of=/dev/null bs=4k count=1 iflag=direct 2>/run/lab/dd
             grep -q 'Input/output error' /run/lab/dd
             [ \"$(said state)\" = failed ]
             lasting file --vsock file /run/lab/disk
             until_said state connected
             dd if=/dev/ublkb0 of=/dev/null bs=4k count=1 iflag=direct
             kill $(said pid)
             until [ -z \"$(guest-tools status)\" ]; do sleep 0.1; done"
        ),
    )?;
    Ok(())
}
