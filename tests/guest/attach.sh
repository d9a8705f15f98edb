# Shell words of the tests of `guest-tools attach`; behind lab.sh.

# lasting NAME WORDS...: an agent that systemd starts again whenever it dies.
lasting() {
    name=$1
    shift
    systemd-run --quiet --collect --unit "$name" --property Restart=always \
        --property RestartSec=300ms --property StartLimitIntervalSec=0 \
        -- "$(command -v agent)" --pidfile "/run/lab/$name.pid" "$@"
    for turn in $(seq 200); do
        [ -s "/run/lab/$name.pid" ] && return
        sleep 0.05
    done
    log "$name"
    return 1
}

# said KEY: what the only attached disk says of itself.
said() {
    guest-tools status --json |
        python3 -c "import json, sys; print(json.load(sys.stdin)[0]['$1'])"
}

# until_said KEY VALUE
until_said() {
    until [ "$(said "$1")" = "$2" ]; do sleep 0.1; done
}

# killed NAME COUNT PAUSE: kills the agent so many times, each when the disk has been connected again
# for that long. The pause is no wait for an event: it is what the disk's user has to get something done.
killed() {
    for turn in $(seq "$2"); do
        sleep "$3"
        before=$(said reconnects)
        systemctl kill --signal=KILL "$1"
        until_said reconnects $((before + 1))
    done
}

# clean: the kernel has seen no error on the disk since the last call.
clean() {
    dmesg --read-clear >/run/lab/dmesg
    if grep -iE 'error|corrupt|timed out|call trace' /run/lab/dmesg; then
        echo 'that is in the kernel log'
        return 1
    fi
}
