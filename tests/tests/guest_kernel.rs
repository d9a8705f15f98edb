//! The kernel's own client in a guest: a filesystem on the agent's disk, over TCP and over a Unix
//! socket. (vsock is not possible: the kernel's nbd driver refuses such sockets.)

use tests::{Outcome, guest::Guest, need};

const LAB: &str = ". /tools/scripts/lab.sh";

#[test]
fn a_filesystem_on_the_kernels_nbd_device() -> Outcome<()> {
    if !need::guests("guest_kernel")? {
        return Ok(());
    }
    let mut guest = Guest::boot("guest_kernel")?;
    guest.sh("modprobe nbd; mkdir -p /mnt/disk")?;

    guest.check(
        "one agent, a file, three listeners: vsock, TCP and a Unix socket",
        &format!(
            "{LAB}
             truncate -s 256M /run/lab/disk
             serve file --listen vsock:10809 --listen tcp:127.0.0.1:10809 \
                 --listen unix:/run/lab/nbd.sock file /run/lab/disk"
        ),
    )?;
    for (name, connect) in [
        ("TCP", "nbd-client -N '' 127.0.0.1 10809 /dev/nbd0"),
        ("a Unix socket", "nbd-client -N '' -unix /run/lab/nbd.sock /dev/nbd0"),
    ] {
        guest.check(&format!("nbd-client over {name}"), connect)?;
        guest.expect(
            &format!("{name}: the kernel sees the size"),
            "blockdev --getsize64 /dev/nbd0",
            "268435456",
        )?;
        guest.check(
            &format!("{name}: mkfs.ext4, mount, write, umount, fsck"),
            "mkfs.ext4 -q /dev/nbd0
             mount /dev/nbd0 /mnt/disk
             head -c 30000000 /dev/urandom >/run/lab/in
             cp /run/lab/in /mnt/disk/file
             sync
             umount /mnt/disk
             fsck.ext4 -f -n /dev/nbd0",
        )?;
        guest.check(
            &format!("{name}: what was written is there after a new connection"),
            &format!(
                "{LAB}
                 release /dev/nbd0
                 {connect}
                 mount -o ro /dev/nbd0 /mnt/disk
                 cmp /run/lab/in /mnt/disk/file
                 umount /mnt/disk"
            ),
        )?;
        guest.expect(
            &format!("{name}: blkdiscard of the whole disk gives the file's blocks back"),
            &format!(
                "{LAB}
                 blkdiscard /dev/nbd0
                 cmp -n 268435456 /dev/nbd0 /dev/zero
                 release /dev/nbd0 >/dev/null
                 stat -c %b /run/lab/disk"
            ),
            "0",
        )?;
    }
    guest.check(
        "blkdiscard of a memory disk of 20 GiB, more than a request can say",
        &format!(
            "{LAB}
             serve memory --unix /run/lab/memory.sock memory 20G
             nbd-client -N '' -unix /run/lab/memory.sock /dev/nbd1
             head -c 8000000 /dev/urandom >/run/lab/in
             dd if=/run/lab/in of=/dev/nbd1 bs=1M seek=19000 conv=fsync status=none
             cmp -n 8000000 -i 0:19922944000 /run/lab/in /dev/nbd1
             blkdiscard /dev/nbd1
             cmp -n 8000000 -i 0:19922944000 /dev/zero /dev/nbd1
             nbd-client -d /dev/nbd1"
        ),
    )?;
    guest.check(
        "a device that hangs, and reads that it has no room for, hold up no other disk of the agent",
        &format!(
            "{LAB}
             serve slow --unix /run/lab/slow.sock memory 64M
             nbd-client -N '' -unix /run/lab/slow.sock /dev/nbd2
             mkdir -p /srv/two
             cp -a /dev/nbd2 /srv/two/slow
             head -c 1000000 /dev/urandom >/srv/two/quick
             serve two --unix /run/lab/two.sock file dir=/srv/two
             chmod 666 /run/lab/two.sock
             /usr/bin/python3 /tools/scripts/cold.py /run/lab/two.sock slow 4 64 \
                 systemctl kill --signal STOP slow & cold=$!
             until [ -e /run/lab/cold.asked ]; do kill -0 $cold; sleep 0.1; done
             for _ in 1 2 3 4; do
                 timeout 60 setpriv --reuid 1000 --regid 1000 --clear-groups nbdsh \
                     -u 'nbd+unix:///quick?socket=/run/lab/two.sock' -c 'print(len(h.pread(4096, 0)))'
             done
             systemctl kill --signal CONT slow
             wait $cold
             stop two
             nbd-client -d /dev/nbd2
             stop slow"
        ),
    )?;
    Ok(())
}
