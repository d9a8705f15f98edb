# Prints what `agent doctor` reads of this machine, as agent/doctor/src/host/trees/ keeps it: "= PATH" and
# its lines, "> PATH TARGET" for a link, "! NAME VALUE" for what only the living machine says.
release=$(uname -r)
file() {
    [ -f "$1" ] && [ -r "$1" ] || return 0
    echo "= $1"
    grep -E "${2:-}" "$1" || true
}
ours='vsock|vhost|vmci|^protocol'
file /proc/sys/kernel/osrelease
file /proc/sys/kernel/modules_disabled
file /proc/modules "$ours"
file /proc/net/protocols "$ours"
file "/lib/modules/$release/modules.dep" '/(vsock|vhost|vhost_vsock|vhost_iotlb|vmw_v[a-z_]*)\.ko[.a-z]*:'
for module in /lib/modules/"$release"/kernel/net/vmw_vsock/* \
    /lib/modules/"$release"/kernel/drivers/vhost/vhost*.ko*; do
    [ ! -e "$module" ] || echo "= $module"
done
for module in /sys/module/*vsock* /sys/module/vhost* /sys/module/*vmci*; do
    file "$module/refcnt"
    file "$module/initstate"
    for holder in "$module"/holders/*; do
        [ ! -e "$holder" ] || echo "> $holder $(readlink "$holder")"
    done
done
for text in /etc/modprobe.d/*.conf /etc/modules-load.d/*.conf /etc/udev/rules.d/*vsock*; do
    file "$text" 'vsock|vhost|vmci'
done
for fd in /proc/[0-9]*/fd/*; do
    [ "$(readlink "$fd")" = /dev/vmci ] || continue
    echo "> $fd /dev/vmci"
    file "${fd%/fd/*}/comm"
done
[ ! -e /dev/vhost-vsock ] || stat -c '! node %a %G' /dev/vhost-vsock
/usr/bin/python3 - <<'END'
import fcntl, os, struct
def errno(path):
    try:
        os.close(os.open(path, os.O_RDWR))
        return 0
    except OSError as error:
        return error.errno
print("! vhost", errno("/dev/vhost-vsock"))
try:
    with open("/dev/vsock") as device:
        cid = fcntl.ioctl(device, 0x7B9, bytes(4))
        print("! cid", struct.unpack("I", cid)[0])
except OSError:
    pass
END
