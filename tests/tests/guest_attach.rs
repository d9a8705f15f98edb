//! guest-tools attach in a real guest: the kernel's nbd driver, real vsock sockets, real filesystems, and
//! an agent that is killed during their use. Guest and host are one machine here, connected by vsock's
//! loopback. The client's path through its kernel is the same.

use tests::{
    Outcome,
    attach::{
        NBD, WORDS, comes_and_goes, filesystems_under_kills, guest, verified_under_ten_kills,
    },
    guest::Guest,
};

#[test]
fn a_block_device_that_survives_its_server() -> Outcome<()> {
    let Some(mut guest) = guest("attach-fio")? else { return Ok(()) };
    comes_and_goes(&mut guest, NBD)?;
    verified_under_ten_kills(&mut guest, NBD)
}

#[test]
fn filesystems_survive_the_server_of_their_disk() -> Outcome<()> {
    let Some(mut guest) = guest("attach-mkfs")? else { return Ok(()) };
    filesystems_under_kills(&mut guest, NBD)
}

#[test]
fn a_disk_is_brought_up_by_its_unit_and_tells_its_troubles() -> Outcome<()> {
    let Some(mut guest) = guest("attach-unit")? else { return Ok(()) };
    unit_and_fstab(&mut guest)?;
    errors(&mut guest)
}

/// The template unit, and a line in fstab that starts it.
fn unit_and_fstab(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "the unit makes the device, and takes it away",
        "cp /tools/guest-disk@.service /etc/systemd/system/
         ln -sf \"$(command -v guest-tools)\" /usr/bin/guest-tools
         mkdir -p /etc/guest-disk /srv
         echo ADDRESS=nbd+vsock://1/ >/etc/guest-disk/nbd0
         systemctl daemon-reload
         systemd-analyze --man=no verify guest-disk@nbd0.service
         systemctl start guest-disk@nbd0
         systemctl --no-pager status guest-disk@nbd0
         mkfs.ext4 -q -F /dev/nbd0
         systemctl stop guest-disk@nbd0
         [ -z \"$(guest-tools status)\" ]",
    )?;
    guest.check(
        "a device that somebody only looks at, as udev does when it is new, is waited for",
        "( exec 9</dev/nbd0; touch /run/lab/looking; sleep 1 ) &
         until [ -e /run/lab/looking ]; do sleep 0.05; done
         guest-tools attach --background --device /dev/nbd0 nbd+vsock://1/
         wait
         guest-tools detach",
    )?;
    guest.check(
        "a mount of fstab brings the disk up, and is unmounted before it goes",
        &format!(
            "{WORDS}
             modprobe -r nbd
             line='/dev/nbd0 /srv ext4 _netdev,nofail,x-systemd.requires=guest-disk@nbd0.service 0 2'
             echo \"$line\" >>/etc/fstab
             systemctl daemon-reload
             systemctl start srv.mount
             findmnt /srv
             echo kept >/srv/file
             killed file 1 0
             echo more >>/srv/file
             systemctl stop guest-disk@nbd0
             ! findmnt /srv
             [ -z \"$(guest-tools status)\" ]
             systemctl start srv.mount
             [ \"$(cat /srv/file)\" = \"$(printf 'kept\\nmore')\" ]
             journalctl --no-pager -o cat -u guest-disk@nbd0 | tail -5
             systemctl stop guest-disk@nbd0
             systemctl --quiet is-failed guest-disk@nbd0 && exit 1
             clean"
        ),
    )?;
    Ok(())
}

/// Errors are reported, and a disk in use is not detached.
fn errors(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "a disk in use is not detached, neither by the command nor by a signal",
        &format!(
            "{WORDS}
             guest-tools attach --background --device /dev/nbd0 nbd+vsock://1/
             mount /dev/nbd0 /mnt/disk
             refuses '/dev/nbd0 is in use: unmount it first' guest-tools detach
             kill $(said pid)
             echo still >/mnt/disk/there; sync /mnt/disk/there
             umount /mnt/disk
             kill $(said pid)
             until [ -z \"$(guest-tools status)\" ]; do sleep 0.1; done
             refuses '/dev/nbd7 is not attached' guest-tools detach /dev/nbd7
             refuses 'nothing is attached' guest-tools detach
             refuses 'no process listens on vsock port 7' guest-tools attach nbd+vsock://1:7/"
        ),
    )?;
    guest.check(
        "after the dead timeout there are errors, and then the disk again",
        &format!(
            "{WORDS}
             guest-tools attach --background --device /dev/nbd0 --dead-timeout 2s nbd+vsock://1/
             systemctl stop file
             ! dd if=/dev/nbd0 of=/dev/null bs=4k count=1 iflag=direct 2>/run/lab/dd
             grep -q 'Input/output error' /run/lab/dd
             guest-tools status
             [ \"$(said state)\" = failed ]
             lasting file --vsock file /run/lab/disk
             until_said state connected
             dd if=/dev/nbd0 of=/dev/null bs=4k count=1 iflag=direct
             guest-tools detach"
        ),
    )?;
    guest.check(
        "a disk that went with its agent is not mistaken for the one that the next agent has",
        &format!(
            "{WORDS}
             lasting memory --vsock --port 7 memory 64M
             guest-tools attach --background --device /dev/nbd0 nbd+vsock://1:7/
             echo kept | dd of=/dev/nbd0 bs=512 conv=sync oflag=direct status=none
             systemctl kill --signal=KILL memory
             until guest-tools status --json | grep -q 'it is another disk'; do sleep 0.1; done
             guest-tools status
             [ \"$(said state)\" = reconnecting ]
             guest-tools detach --force
             systemctl stop memory"
        ),
    )?;
    guest.check(
        "this kernel refuses vsock sockets, so --direct makes a relay all the same",
        &format!(
            "{WORDS}
             guest-tools attach --background --device /dev/nbd0 --direct --json nbd+vsock://1/ | tee /run/lab/json
             grep -q '\"relay\": true' /run/lab/json
             dd if=/dev/nbd0 of=/dev/null bs=64k count=16 iflag=direct
             guest-tools detach"
        ),
    )?;
    Ok(())
}
