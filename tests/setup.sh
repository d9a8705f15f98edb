# Installs what tests/run, images/demo and the benchmarks need on a Debian machine. They source this file.

# To build and boot guests.
GUEST_PACKAGES=(qemu-system-x86 mmdebstrap e2fsprogs kmod cpio xz-utils zstd lz4 gcc libc6-dev)
# The clients and servers that the tests compare with.
PEER_PACKAGES=(qemu-utils nbdkit libnbd-bin python3-libnbd nbd-client nbd-server fio
    libvirt-clients libxml2-utils)
# Superservers. The two packages conflict, and installing one starts it for the whole machine. So they are unpacked
# only, and a test starts them with its own configuration.
UNPACKED_PACKAGES=(xinetd openbsd-inetd)
# OpenSSL, which the agent links with the feature psk.
PSK_PACKAGES=(libssl-dev pkg-config)
# libFuzzer is written in C++.
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

# need_packages NAME...: says which of the packages are missing, and installs these.
need_packages() {
    command -v apt-get >/dev/null || die "this is for Debian: there is no apt-get here"
    local missing=() name
    for name in "$@"; do
        is_installed "$name" || missing+=("$name")
    done
    # Users other than root build the images under fakeroot or in a user namespace.
    if [ "$(id -u)" != 0 ]; then
        for name in fakeroot uidmap; do
            is_installed "$name" || missing+=("$name")
        done
    fi
    # The images are built from packages that apt knows, so apt's lists must be there.
    if [ ${#missing[@]} = 0 ] && [ -n "$(apt-get indextargets 'Created-By: Packages')" ] &&
        [ -n "$(apt-cache search --names-only '^linux-image-.*-cloud-amd64-unsigned$')" ]; then
        echo "installed: $*"
        return
    fi
    echo "updating the package lists: apt-get update"
    as_root apt-get -q update >/dev/null || echo "apt-get update had errors; continuing with the lists it got"
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

# unpack_packages NAME...: unpacks the packages into target/peers/NAME, and installs their dependencies.
unpack_packages() {
    local peers=target/peers name depends=()
    mkdir -p "$peers"
    for name in "$@"; do
        [ -d "$peers/$name" ] && continue
        echo "downloading and unpacking $name"
        rm -f "$peers/$name"_*.deb
        # As root, apt warns that its own user cannot write to this folder, and continues.
        (cd "$peers" && apt-get -q download "$name" >/dev/null 2>&1) ||
            die "apt-get could not download: $name"
        depends+=("$(dpkg-deb -f "$peers/$name"_*.deb Depends)")
    done
    if [ ${#depends[@]} != 0 ]; then
        as_root apt-get -q -y --no-install-recommends satisfy "${depends[@]}" >/dev/null ||
            die "apt-get could not install the dependencies of: $*"
    fi
    for name in "$@"; do
        [ -d "$peers/$name" ] || dpkg-deb -x "$peers/$name"_*.deb "$peers/$name"
    done
}

codename() {
    sed -n 's/^VERSION_CODENAME=//p' /etc/os-release
}

# If the installed qemu-utils is from backports, the qemu-system-x86 of the release conflicts with it.
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
    [ -n "$mirror" ] || die "apt has no source of $(codename), so the mirror of its backports is unknown"
    echo "adding $(codename)-backports to apt's sources: the installed qemu-utils is from there"
    as_root tee /etc/apt/sources.list.d/nbd-lab-backports.list >/dev/null <<EOF
deb $mirror $(codename)-backports main
EOF
    as_root apt-get -q update >/dev/null || true
}

# need_cargo_tool NAME: builds a program of crates.io with cargo install if it is missing.
need_cargo_tool() {
    command -v cargo >/dev/null || die "needs Rust 1.95 or later: https://rustup.rs"
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    if command -v "$1" >/dev/null; then
        echo "installed: $1"
    else
        echo "building $1 with cargo install (minutes)"
        cargo install --quiet --locked "$1"
    fi
}

# Builds rust-vmm's vhost-device-vsock, a vsock device of a VMM that needs no KVM. It is installed below target/,
# since only the tests use it.
need_vsock_peer() {
    if [ -x target/vsock-peer/bin/vhost-device-vsock ]; then
        echo "installed: vhost-device-vsock"
    else
        echo "building vhost-device-vsock with cargo install (minutes)"
        cargo install --quiet --locked --root target/vsock-peer --version 0.3.0 vhost-device-vsock
    fi
}

# Checks licences, bans and sources of the dependencies. Advisories are left out: they need network access, which CI
# may not have.
deny() {
    cargo deny --log-level error --config .deny.toml check licenses bans sources
}
