# Shell words of the guest tests; a script begins with `. /tools/scripts/lab.sh`.

# serve NAME WORDS...: starts an agent with these words, as a service, and waits until it is ready.
serve() {
    name=$1
    shift
    systemd-run --quiet --collect --unit "$name" \
        -- "$(command -v agent)" --pidfile "/run/lab/$name.pid" "$@"
    until [ -s "/run/lab/$name.pid" ]; do
        systemctl --quiet is-active "$name" || { log "$name"; echo "agent $* ended"; return 1; }
        sleep 0.05
    done
}

# stop NAME: ends that agent as an operator would, and waits for its end.
stop() {
    systemctl stop "$1"
    rm -f "/run/lab/$1.pid"
}

# log NAME: what that agent has said.
log() {
    journalctl --no-pager --output cat --unit "$1"
}

# refuses TEXT COMMAND...: it fails, and says that.
refuses() {
    text=$1
    shift
    if "$@" >/run/lab/refused 2>&1; then cat /run/lab/refused; return 1; fi
    cat /run/lab/refused
    grep -qF -- "$text" /run/lab/refused
}

# release DEVICE: takes the kernel's nbd device from its server, and waits until it can have another. Who has it
# open, as udev may for a moment after every close, keeps the connection's record there.
release() {
    nbd-client -d "$1"
    while [ -e "/sys/block/${1##*/}/pid" ]; do sleep 0.05; done
}
