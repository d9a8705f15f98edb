# Shell words of guest_libvirt; a script begins with `. /tools/scripts/libvirt.sh`.
. /tools/scripts/lab.sh
cd /run/lab

# domain NAME [COMMANDS]: prints a domain without a vsock device, whose guest does that and powers off.
domain() {
    sed "s|NAME|$1|; s|COMMANDS|$2|" /tools/scripts/domain.xml
}

# paused NAME: defines what it reads, and starts it; its processor stands still.
paused() {
    cat >"$1.xml"
    virsh --quiet define --validate "$1.xml"
    virsh --quiet start "$1" --paused
}

# has NAME WORDS...: the first of its vsock device's lines in virsh's XML, and its CID's.
has() {
    virsh dumpxml --domain "$@" | grep -A 1 '<vsock' | tr -d '\n'
}

# qemu_has NAME: the CID that QEMU itself says.
qemu_has() {
    virsh qemu-monitor-command "$1" '{"execute": "qom-get",
        "arguments": {"path": "/machine/peripheral/vsock0", "property": "guest-cid"}}' |
        /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)["return"])'
}

# is WORDS EXPECTED: the two are the same.
is() {
    [ "$1" = "$2" ] || { echo "$1"; echo "and expected: $2"; return 1; }
}
