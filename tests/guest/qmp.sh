# Shell words of guest_qmp; a script begins with `. /tools/scripts/qmp.sh`.
. /tools/scripts/lab.sh
cd /run/lab

# vm NAME <FILE: starts the machine of that command line with two QMP sockets, NAME.qmp and NAME.ctl. Its processors
# stand still.
vm() {
    sed 's/^/exec /; s/$/ "$@"/' >$1.sh
    systemd-run --quiet --collect --unit $1 --working-directory /run/lab \
        -p StandardOutput=append:/run/lab/$1.console \
        -- sh $1.sh -S -device pcie-root-port,id=rp0,chassis=1 \
        -qmp unix:$1.qmp,server=on,wait=off -qmp unix:$1.ctl,server=on,wait=off
    # A socket stands there before it is listened on.
    until qmp $1 query-name 2>/dev/null; do
        systemctl --quiet is-active $1 || { log $1; cat $1.console; return 1; }
        sleep 0.1
    done
}

# qmp NAME COMMAND: runs a command of QMP.
qmp() { /usr/bin/python3 /tools/scripts/qmp.py $1.ctl $2; }

# said TEXT: waits until the agent `disks` has logged it.
said() { until log disks | grep -F -- "$1"; do sleep 0.2; done; }

# cid NAME: the CID of the machine's vsock device.
cid() {
    agent qemu list --qmp $1.ctl --json |
        /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)["devices"][0]["cid"])'
}
