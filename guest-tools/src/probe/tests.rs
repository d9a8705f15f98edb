//! Machines made of files, and what is found of them.

use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;

use super::*;

/// A directory with a kernel 6.12.1 and nothing else; then more.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.0.path().join("sys/bus")).unwrap();
        tree.file("proc/sys/kernel/osrelease", "6.12.1\n")
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn driven(self, device: &str, driver: &str) -> Self {
        let device = self.0.path().join(device);
        symlink(Path::new("../../drivers").join(driver), device.join("driver")).unwrap();
        self
    }

    fn modules(self, names: &[&str]) -> Self {
        let lines = names.iter().map(|name| format!("kernel/net/{name}.ko.xz: kernel/x.ko.xz\n"));
        self.file("lib/modules/6.12.1/modules.dep", &lines.collect::<String>())
    }

    fn machine(&self) -> Machine {
        Machine::below(self.0.path())
    }
}

const VIRTIO0: &str = "sys/bus/virtio/devices/virtio0";

fn vsock_device(tree: Tree) -> Tree {
    tree.file(&format!("{VIRTIO0}/device"), "0x0013\n")
        .file("sys/bus/virtio/devices/virtio1/device", "0x0002\n")
}

fn has(finding: &Finding, verdict: Verdict, says: &str) {
    let text = finding.text();
    assert!(finding.verdict == verdict && text.contains(says), "{says:?}: {text}");
    assert!(verdict == Verdict::Ok || !finding.meaning.is_empty(), "{text}");
    assert!(verdict != Verdict::Fault || finding.hint.is_some(), "a fault has a hint: {text}");
}

#[test]
fn the_device_is_driven_idle_on_pci_alone_or_absent() {
    let driven = vsock_device(Tree::new()).driven(VIRTIO0, "vmw_vsock_virtio_transport");
    has(&device(&driven.machine()), Verdict::Ok, "virtio0 is driven by vmw_vsock_virtio_transport");
    has(&driver(&driven.machine()), Verdict::Ok, "built in");

    let idle = vsock_device(Tree::new());
    has(&device(&idle.machine()), Verdict::Fault, "an initramfs needs");
    has(&driver(&idle.machine()), Verdict::Fault, "not loaded");
    let idle = idle.modules(&["vmw_vsock_virtio_transport", "vsock"]);
    has(&device(&idle.machine()), Verdict::Fault, "hint: modprobe vmw_vsock_virtio_transport;");
    let idle = idle.modules(&["nbd"]);
    has(&device(&idle.machine()), Verdict::Fault, "linux-modules-extra-6.12.1");

    for id in ["0x1012", "0x1053"] {
        let pci = Tree::new()
            .file("sys/bus/pci/devices/0000:00:03.0/vendor", "0x1af4\n")
            .file("sys/bus/pci/devices/0000:00:03.0/device", id)
            .modules(&["virtio_pci"]);
        has(&device(&pci.machine()), Verdict::Fault, "hint: modprobe virtio_pci");
    }
    let disk = Tree::new().file("sys/bus/virtio/devices/virtio1/device", "0x0002\n");
    has(&device(&disk.machine()), Verdict::Fault, "none among 1 virtio devices");
    has(&device(&disk.machine()), Verdict::Fault, "vhost-vsock-pci");
    has(&driver(&disk.machine()), Verdict::Warning, "not loaded");
    let nothing = Tree(tempfile::tempdir().unwrap());
    has(&device(&nothing.machine()), Verdict::Warning, "mount -t sysfs");
    let hyperv = Tree::new().file("proc/modules", "hv_sock 1 0 - Live 0x0\n");
    has(&device(&hyperv.machine()), Verdict::Ok, "Hyper-V");
}

#[test]
fn the_driver_is_loaded_or_built_in() {
    for tree in [
        Tree::new().file("proc/modules", "vmw_vsock_virtio_transport 20480 1 - Live 0x0\n"),
        Tree::new().file("sys/module/vmw_vsock_virtio_transport/parameters/x", ""),
        Tree::new().file(
            "lib/modules/6.12.1/modules.builtin",
            "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko\n",
        ),
        Tree::new()
            .file("lib/modules/6.12.1/modules.builtin", "kernel/vmw-vsock-virtio-transport.ko\n"),
    ] {
        has(&driver(&tree.machine()), Verdict::Ok, "in the kernel");
    }
    // The common half alone is no driver.
    let common = "vmw_vsock_virtio_transport_common 1 0 - Live 0x0\nvsock 1 0 - Live 0x0\n";
    let tree = Tree::new().file("proc/modules", common);
    has(&driver(&tree.machine()), Verdict::Warning, "not loaded");
}

#[test]
fn a_socket_is_there_missing_or_forbidden() {
    let mut machine = Tree::new().modules(&["vmw_vsock_virtio_transport"]).machine();
    has(&socket(&machine), Verdict::Ok, "succeeds");
    for (errno, says) in [
        (Errno::EAFNOSUPPORT, "modprobe vmw_vsock_virtio_transport"),
        (Errno::EPERM, "seccomp"),
        (Errno::EACCES, "RestrictAddressFamilies"),
        (Errno::EMFILE, "EMFILE"),
    ] {
        machine.socket = Err(errno);
        has(&socket(&machine), Verdict::Fault, says);
    }
    // A unit's RestrictAddressFamilies says that too, in a kernel that has it.
    machine.protocol = true;
    machine.socket = Err(Errno::EAFNOSUPPORT);
    has(&socket(&machine), Verdict::Fault, "container or unit");
}

#[test]
fn each_cid_has_its_meaning() {
    let mut machine = Tree::new().machine();
    for (found, verdict, says) in [
        (Ok(3), Verdict::Ok, "the host knows this guest as CID 3"),
        (Ok(4_294_967_294), Verdict::Ok, "as CID 4294967294"),
        (Ok(CID_ANY), Verdict::Fault, "no transport gives"),
        (Ok(1), Verdict::Fault, "itself alone"),
        (Ok(2), Verdict::Warning, "counts as a host"),
        (Err(Errno::ENOENT), Verdict::Warning, "not known"),
    ] {
        machine.cid = found;
        has(&cid(&machine), verdict, says);
    }
}

#[test]
fn the_node_only_tells_the_cid() {
    let mut machine = Tree::new().machine();
    has(&node(&machine), Verdict::Warning, "comes with the module vsock");
    machine.protocol = true;
    has(&node(&machine), Verdict::Warning, "devtmpfs");
    machine.node = true;
    machine.cid = Err(Errno::EACCES);
    has(&node(&machine), Verdict::Warning, "chmod a+r");
    machine.cid = Ok(3);
    has(&node(&machine), Verdict::Ok, "opens");
}

#[test]
fn transports_are_named_with_what_they_are() {
    let tree = |modules: &str| vsock_device(Tree::new()).file("proc/modules", modules).machine();
    has(&transports(&tree("")), Verdict::Ok, "no module");
    let guest = "vsock 1\nvmw_vsock_virtio_transport 1\n";
    has(&transports(&tree(guest)), Verdict::Ok, "a guest's way to its host, over virtio");
    has(&transports(&tree(&format!("{guest}vhost_vsock 1\n"))), Verdict::Ok, "guests of its own");
    let rival = tree(&format!("{guest}vmw_vsock_vmci_transport 1\n"));
    has(&transports(&rival), Verdict::Warning, "modprobe -r vmw_vsock_vmci_transport");
}

#[test]
fn the_protocol_is_seen_in_proc() {
    let line = "protocol  size sockets  memory\nAF_VSOCK  1376      0      -1\n";
    assert!(Tree::new().file("proc/net/protocols", line).machine().protocol);
    assert!(!Tree::new().file("proc/net/protocols", "TCP 1\n").machine().protocol);
}

#[test]
fn findings_are_read_by_people_and_programs() {
    let finding = Finding::new("cid", Verdict::Fault, "none").meaning("a").hint("b");
    assert_eq!(finding.text(), "fault    cid: none\n         a\n         hint: b\n");
    assert_eq!(finding.json()["verdict"], "fault");
    assert_eq!(findings(&Tree::new().machine()).len(), 6);
}
