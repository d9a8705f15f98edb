# What tests/run and images/demo need on a Debian machine, and how it gets there. Sourced by them.

# Building and booting guests.
GUEST_PACKAGES=(qemu-system-x86 mmdebstrap e2fsprogs kmod cpio xz-utils zstd lz4 gcc libc6-dev)
# The clients and servers that ours are tested against.
PEER_PACKAGES=(qemu-utils nbdkit libnbd-bin python3-libnbd nbd-client nbd-server fio
    libvirt-clients libxml2-utils)
# Superservers: the two exclude each other, and installing one starts it for the whole machine.
# Unpacked they are programs that a test starts with a configuration of its own.
UNPACKED_PACKAGES=(xinetd openbsd-inetd)
# The agent's feature psk links OpenSSL.
PSK_PACKAGES=(libssl-dev pkg-config)
# libFuzzer is C++.
FUZZ_PACKAGES=(g++)

step() {
    printf '\n==> %s (%d min %02d s)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60))
}

die() {
    echo "error: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        command -v sudo >/dev/null || die "needs root for: $* (run it as root, or install sudo)"
        sudo DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

is_installed() {
    dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

# need_packages NAME...: installs what is missing, and says so before it does.
need_packages() {
    command -v apt-get >/dev/null || die "this is for Debian: there is no apt-get here"
    local missing=() name
    for name in "$@"; do
        is_installed "$name" || missing+=("$name")
    done
    # Those who build images as somebody else than root pretend to be root.
    if [ "$(id -u)" != 0 ]; then
        for name in fakeroot uidmap; do
            is_installed "$name" || missing+=("$name")
        done
    fi
    # apt's lists: images are built from packages that apt knows.
    if [ ${#missing[@]} = 0 ] && [ -n "$(apt-get indextargets 'Created-By: Packages')" ] &&
        [ -n "$(apt-cache search --names-only '^linux-image-.*-cloud-amd64-unsigned$')" ]; then
        echo "all there: $*"
        return
    fi
    echo "reading the package lists: apt-get update"
    as_root apt-get -q update >/dev/null || echo "apt-get update had errors; going on with what it got"
    [ ${#missing[@]} = 0 ] && return
    local suite=()
    if needs_backports "${missing[@]}"; then
        suite=(-t "$(codename)-backports")
        add_backports
    fi
    echo "installing with apt-get: ${missing[*]}"
    as_root apt-get -q -y --no-install-recommends "${suite[@]}" install "${missing[@]}" >/dev/null ||
        die "apt-get could not install: ${missing[*]}"
}

# unpack_packages NAME...: into target/peers/NAME; what they depend on is installed.
unpack_packages() {
    local peers=target/peers name depends=()
    mkdir -p "$peers"
    for name in "$@"; do
        [ -d "$peers/$name" ] && continue
        echo "downloading and unpacking $name"
        rm -f "$peers/$name"_*.deb
        # As root, apt complains that its own user cannot write here, and goes on.
        (cd "$peers" && apt-get -q download "$name" >/dev/null 2>&1) ||
            die "apt-get could not download: $name"
        depends+=("$(dpkg-deb -f "$peers/$name"_*.deb Depends)")
    done
    if [ ${#depends[@]} != 0 ]; then
        as_root apt-get -q -y --no-install-recommends satisfy "${depends[@]}" >/dev/null ||
            die "apt-get could not install what they depend on: $*"
    fi
    for name in "$@"; do
        [ -d "$peers/$name" ] || dpkg-deb -x "$peers/$name"_*.deb "$peers/$name"
    done
}

codename() {
    sed -n 's/^VERSION_CODENAME=//p' /etc/os-release
}

# Where qemu-utils is from backports, the release's own qemu-system-x86 does not fit it.
needs_backports() {
    [[ " $* " == *" qemu-system-x86 "* ]] && is_installed qemu-utils || return 1
    [[ $(dpkg-query -W -f '${Version}' qemu-utils) == *~bpo* ]]
}

# Adds the backports of this release from the mirror that apt already uses.
add_backports() {
    apt-get indextargets --format '$(RELEASE)' 'Created-By: Packages' |
        grep -qx "$(codename)-backports" && return
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        awk -v release="$(codename)" '$2 == release { print $1; exit }')
    [ -n "$mirror" ] || die "apt has no source of $(codename); cannot tell where its backports are"
    echo "adding $(codename)-backports to apt's sources: qemu-utils here is from there"
    as_root tee /etc/apt/sources.list.d/nbd-lab-backports.list >/dev/null <<EOF
deb $mirror $(codename)-backports main
EOF
    as_root apt-get -q update >/dev/null || true
}

# need_cargo_tool NAME: a program of crates.io, built here if it is not there.
need_cargo_tool() {
    command -v cargo >/dev/null || die "needs Rust 1.95 or later: https://rustup.rs"
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    if command -v "$1" >/dev/null; then
        echo "there: $1"
    else
        echo "building $1 with cargo install (minutes)"
        cargo install --quiet --locked "$1"
    fi
}

# rust-vmm's vhost-device-vsock: a VMM's end of vsock that runs under emulation. Inside target/, since it is
# for our tests alone.
need_vsock_peer() {
    if [ -x target/vsock-peer/bin/vhost-device-vsock ]; then
        echo "there: vhost-device-vsock"
    else
        echo "building vhost-device-vsock with cargo install (minutes)"
        cargo install --quiet --locked --root target/vsock-peer --version 0.3.0 vhost-device-vsock
    fi
}

# Not the advisories: their database is on a network that CI need not have.
deny() {
    cargo deny --log-level error --config .deny.toml check licenses bans sources
}
