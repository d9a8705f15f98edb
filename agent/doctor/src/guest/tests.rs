//! The findings on machines that are made of files.

use vsock_cid::Cid;

use super::*;
use crate::testing::Tree;

/// A machine with a kernel 6.12.1, whose /dev tells no CID, and nothing else.
fn guest() -> Tree {
    let tree = Tree::new("6.12.1").probe(|probes| probes.cid = Err(libc::ENOENT));
    tree.directory("/sys/bus")
}

/// Installs modules that could be loaded.
fn loadable(tree: Tree, names: &[&str]) -> Tree {
    let lines = names.iter().map(|name| format!("kernel/net/{name}.ko.xz: kernel/x.ko.xz\n"));
    tree.file("/lib/modules/6.12.1/modules.dep", &lines.collect::<String>())
}

fn driven(tree: Tree, device: &str, driver: &str) -> Tree {
    tree.link(&format!("{device}/driver"), &format!("../../drivers/{driver}"))
}

const VIRTIO0: &str = "/sys/bus/virtio/devices/virtio0";

fn vsock_device(tree: Tree) -> Tree {
    tree.file(&format!("{VIRTIO0}/device"), "0x0013\n")
        .file("sys/bus/virtio/devices/virtio1/device", "0x0002\n")
}

fn has(finding: &Finding, verdict: Verdict, says: &str) {
    let text = finding.to_string();
    assert!(finding.verdict == verdict && text.contains(says), "{says:?}: {text}");
    assert!(verdict == Verdict::Ok || !finding.meaning.is_empty(), "{text}");
    assert!(verdict != Verdict::Fault || finding.hint.is_some(), "a fault has a hint: {text}");
}

#[test]
fn the_device_is_driven_idle_on_pci_alone_or_absent() {
    let driven = driven(vsock_device(guest()), VIRTIO0, "vmw_vsock_virtio_transport");
    has(&device(&driven.machine()), Verdict::Ok, "virtio0 is driven by vmw_vsock_virtio_transport");
    has(&driver(&driven.machine()), Verdict::Ok, "built in");

    let idle = vsock_device(guest());
    has(&device(&idle.machine()), Verdict::Fault, "an initramfs needs");
    has(&driver(&idle.machine()), Verdict::Fault, "not loaded");
    let idle = loadable(idle, &["vmw_vsock_virtio_transport", "vsock"]);
    has(&device(&idle.machine()), Verdict::Fault, "hint: modprobe vmw_vsock_virtio_transport;");
    let idle = loadable(idle, &["nbd"]);
    has(&device(&idle.machine()), Verdict::Fault, "linux-modules-extra-6.12.1");

    for id in ["0x1012", "0x1053"] {
        let pci = guest()
            .file("/sys/bus/pci/devices/0000:00:03.0/vendor", "0x1af4\n")
            .file("/sys/bus/pci/devices/0000:00:03.0/device", id);
        let pci = loadable(pci, &["virtio_pci"]);
        has(&device(&pci.machine()), Verdict::Fault, "hint: modprobe virtio_pci");
    }
    let disk = guest().file("sys/bus/virtio/devices/virtio1/device", "0x0002\n");
    has(&device(&disk.machine()), Verdict::Fault, "none among 1 virtio devices");
    has(&device(&disk.machine()), Verdict::Fault, "vhost-vsock-pci");
    has(&driver(&disk.machine()), Verdict::Warning, "not loaded");
    let nothing = Tree::new("6.12.1");
    has(&device(&nothing.machine()), Verdict::Warning, "mount -t sysfs");
    let hyperv = guest().file("proc/modules", "hv_sock 1 0 - Live 0x0\n");
    has(&device(&hyperv.machine()), Verdict::Ok, "Hyper-V");
}

#[test]
fn the_driver_is_loaded_or_built_in() {
    for tree in [
        guest().file("proc/modules", "vmw_vsock_virtio_transport 20480 1 - Live 0x0\n"),
        guest().file("sys/module/vmw_vsock_virtio_transport/parameters/x", ""),
        guest().file(
            "lib/modules/6.12.1/modules.builtin",
            "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko\n",
        ),
        guest()
            .file("lib/modules/6.12.1/modules.builtin", "kernel/vmw-vsock-virtio-transport.ko\n"),
    ] {
        has(&driver(&tree.machine()), Verdict::Ok, "in the kernel");
    }
    // The module for the common half alone is no driver.
    let common = "vmw_vsock_virtio_transport_common 1 0 - Live 0x0\nvsock 1 0 - Live 0x0\n";
    let tree = guest().file("proc/modules", common);
    has(&driver(&tree.machine()), Verdict::Warning, "not loaded");
}

#[test]
fn a_socket_is_there_missing_or_forbidden() {
    let tree = loadable(guest(), &["vmw_vsock_virtio_transport"]);
    has(&socket(&tree.machine()), Verdict::Ok, "succeeds");
    let mut tree = tree;
    for (errno, says) in [
        (libc::EAFNOSUPPORT, "modprobe vmw_vsock_virtio_transport"),
        (libc::EPERM, "seccomp"),
        (libc::EACCES, "RestrictAddressFamilies"),
        (libc::EMFILE, "EMFILE"),
    ] {
        tree = tree.probe(|probes| probes.socket = Err(errno));
        has(&socket(&tree.machine()), Verdict::Fault, says);
    }
    // RestrictAddressFamilies= of a unit gives this error too, on a kernel that has AF_VSOCK.
    let tree = known(tree).probe(|probes| probes.socket = Err(libc::EAFNOSUPPORT));
    has(&socket(&tree.machine()), Verdict::Fault, "container or unit");
}

/// Gives the machine a kernel that has AF_VSOCK.
fn known(tree: Tree) -> Tree {
    tree.file(
        "/proc/net/protocols",
        "protocol  size sockets  memory\nAF_VSOCK  1376      0      -1\n",
    )
}

#[test]
fn each_cid_has_its_meaning() {
    for (found, verdict, says) in [
        (Ok(3), Verdict::Ok, "the host knows this guest as CID 3"),
        (Ok(4_294_967_294), Verdict::Ok, "as CID 4294967294"),
        (Ok(u32::MAX), Verdict::Fault, "no transport gives"),
        (Ok(1), Verdict::Fault, "itself alone"),
        (Ok(2), Verdict::Warning, "is a vsock host"),
        (Err(libc::ENOENT), Verdict::Warning, "not known"),
    ] {
        let tree = guest().probe(|probes| probes.cid = found.map(Cid::new));
        has(&cid(&tree.machine()), verdict, says);
    }
}

#[test]
fn the_node_only_tells_the_cid() {
    has(&node(&guest().machine()), Verdict::Warning, "comes with the module vsock");
    let tree = known(guest());
    has(&node(&tree.machine()), Verdict::Warning, "devtmpfs");
    let tree = tree.file("/dev/vsock", "").probe(|probes| probes.cid = Err(libc::EACCES));
    has(&node(&tree.machine()), Verdict::Warning, "chmod a+r");
    let tree = tree.probe(|probes| probes.cid = Ok(Cid::new(3)));
    has(&node(&tree.machine()), Verdict::Ok, "opens");
}

#[test]
fn transports_are_named_with_what_they_are() {
    has(&transports(&vsock_device(guest()).machine()), Verdict::Ok, "no module");
    let found = |more: &[(&str, u32)]| {
        let modules = [&[("vsock", 1), (VIRTIO, 1)], more].concat();
        transports(&vsock_device(guest()).modules(&modules).machine())
    };
    has(&found(&[]), Verdict::Ok, "a guest's way to its host, over virtio");
    has(&found(&[("vhost_vsock", 1)]), Verdict::Ok, "guests of its own");
    has(&found(&[(VMCI, 1)]), Verdict::Warning, "modprobe -r vmw_vsock_vmci_transport");
}

#[test]
fn every_check_finds_something() {
    assert_eq!(findings(&guest().machine()).len(), 6);
}
