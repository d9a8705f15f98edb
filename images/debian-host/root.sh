# Makes the VM host's root filesystem. images/src/ext4.rs runs it as root or under fakeroot:
#     sh -e root.sh USERLAND.tar MODULES_ROOT RECIPE_FOLDER IMAGE
userland=$1 modules=$2 recipe=$3 image=$4
root=$image.root
mkdir "$root"
tar -C "$root" -xf "$userland"
cp -r "$modules/lib/modules" "$root/usr/lib/"
depmod -b "$root" "$(ls "$root/usr/lib/modules")"

install -m 755 "$recipe/lab-shell" "$recipe/lab-init" "$root/usr/local/sbin/"
units=$root/etc/systemd/system
install -m 644 "$recipe/lab-shell.service" "$units/"
mkdir -p "$units/multi-user.target.wants"
ln -s ../lab-shell.service "$units/multi-user.target.wants/"
# No login is needed, and no timer may start a program during a test.
for unit in serial-getty@ttyS0.service getty@tty1.service systemd-networkd-wait-online.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    systemd-tmpfiles-clean.timer e2scrub_reap.service getty-static.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service; do
    ln -sf /dev/null "$units/$unit"
done
# libvirt's test starts libvirt; the others boot without it.
find "$units" -path '*.wants/*virt*' -delete
# Without a machine id systemd would take this for the first boot and ask questions on the console.
echo 00000000000000000000000000001ab0 >"$root/etc/machine-id"
echo vmhost >"$root/etc/hostname"
: >"$root/etc/fstab"

size=$(du -sm "$root" | cut -f1)
mke2fs -q -t ext4 -O ^has_journal -m 0 -L lab -d "$root" "$image" "$((size * 11 / 10 + 32))M"
rm -rf "$root"
