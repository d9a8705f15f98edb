//! The transport that keeps vhost_vsock out, by kernel and evidence.

use vsock_cid::Cid;

use super::*;
use crate::testing::Tree;

/// A machine that has vhost_vsock installed and not loaded.
fn refused(release: &str) -> Tree {
    Tree::new(release)
        .loadable(&["vhost_vsock"])
        .probe(|probes| (probes.vhost, probes.cid) = (Err(libc::ENODEV), Ok(Cid::HOST)))
}

#[test]
fn before_5_5_any_other_transport_is_in_the_way() {
    for name in [VMCI, VIRTIO] {
        let found = refused("5.4.0").modules(&[(name, 0)]).finding(check, "transport");
        assert_eq!(found.verdict, Verdict::Fault, "{name}");
        assert!(found.meaning.ends_with(&format!("and {name} is it")), "{found:?}");
        let hint = found.hint.unwrap();
        assert!(hint.to_string().starts_with(&format!("\"modprobe -r {name}\"")), "{hint}");
        assert_eq!(hint.safe, name == VMCI, "a guest's way to its host is not cut");
    }
    // The kernel has no place for both. hv_sock has to stay.
    let found = refused("5.4.0").modules(&[(HYPERV, 0)]).finding(check, "transport");
    assert_eq!(found.verdict, Verdict::Fault);
    assert!(found.meaning.contains("older than Linux 5.5"), "{found:?}");
    let hint = found.hint.unwrap();
    assert!(hint.steps.is_empty() && hint.to_string().starts_with("boot Linux 5.5"), "{hint}");
}

#[test]
fn vmci_is_a_fault_on_proof_only() {
    const DEVICE: &str = "/sys/bus/pci/devices/0000:00:07.7";
    let tree = |cid: Option<u32>| {
        refused("6.1.0")
            .modules(&[(VMCI, 1)])
            .probe(|probes| probes.cid = cid.map(Cid::new).ok_or(libc::ENOENT))
    };
    let nested = |cid| tree(cid).modules(&[(VMCI, 1), (VIRTIO, 0)]);
    let node = |tree: Tree| tree.probe(|probes| probes.vhost = Err(libc::ENOENT));
    let vmx = |tree: Tree| tree.file("/proc/70/comm", "vmware-vmx\n");
    let tools = |tree: Tree| tree.file("/proc/70/comm", "vmtoolsd\n");
    let guest = |tree: Tree| {
        let tree = tree.file(&format!("{DEVICE}/vendor"), "0x15ad\n");
        tree.file(&format!("{DEVICE}/device"), "0x0740\n")
    };
    for (tree, verdict, part) in [
        // With VMCI as the host's transport the CID would be 2.
        (tree(Some(u32::MAX)), Verdict::Ok, "vmw_vsock_vmci_transport"),
        (tree(Some(1)), Verdict::Ok, "vmw_vsock_vmci_transport"),
        (tree(Some(2)), Verdict::Fault, "CID 2 already"),
        (tree(None), Verdict::Warning, "does not tell this machine's CID"),
        // A guest's CID hides the host's, with the node and without.
        (nested(Some(77)), Verdict::Warning, "vmw_vsock_virtio_transport is loaded"),
        (node(nested(Some(77))), Verdict::Warning, "vmw_vsock_virtio_transport is loaded"),
        (guest(tree(Some(77))), Verdict::Warning, "a guest of VMware"),
        (
            tree(Some(77)).config("CONFIG_VIRTIO_VSOCKETS=y\n"),
            Verdict::Warning,
            "built into this kernel",
        ),
        (tools(nested(Some(77))), Verdict::Warning, "vmtoolsd of open-vm-tools"),
        // A running hypervisor is proof.
        (vmx(nested(Some(77))), Verdict::Fault, "vmware-vmx (process 70) is its hypervisor"),
        (node(vmx(nested(Some(77)))), Verdict::Fault, "is its hypervisor"),
        (node(guest(vmx(tree(Some(77))))), Verdict::Fault, "is its hypervisor"),
    ] {
        let found = tree.finding(check, "transport");
        assert_eq!(found.verdict, verdict, "{found:?}");
        assert!(found.evidence.contains(part), "{part}: {found:?}");
        assert_eq!(found.hint.is_some(), verdict != Verdict::Ok);
    }
}

#[test]
fn a_module_that_cannot_be_unloaded_has_no_step_that_unloads_it() {
    let tree = || refused("6.1.0").modules(&[(VMCI, 0)]).probe(|probes| probes.cid = Ok(Cid::HOST));
    let hint = tree().finding(check, "transport").hint.unwrap();
    assert!(hint.safe, "{hint}");
    let running = tree().file("/proc/70/comm", "vmware-vmx\n").finding(check, "transport");
    assert!(running.evidence.contains("with 0 users: vmware-vmx (process 70)"), "{running:?}");
    let hint = running.hint.unwrap();
    assert!(!hint.safe && hint.to_string().contains("VMs of VMware have ended"), "{hint}");
    let locked = tree().file("/proc/sys/kernel/modules_disabled", "1\n");
    let hint = locked.finding(check, "transport").hint.unwrap();
    assert!(!hint.safe && hint.to_string().contains("and reboot"), "{hint}");
    assert!(!hint.to_string().contains("modprobe -r"), "{hint}");
    // A module that is banned is not loaded.
    let banned = tree().file("/etc/modprobe.d/x.conf", "blacklist vhost_vsock\n");
    let hint = banned.finding(check, "transport").hint.unwrap();
    assert!(!hint.safe && hint.steps.len() == 1, "{hint}");
}

#[test]
fn from_5_5_on_only_vmci_in_the_hosts_place_is_to_blame() {
    for (name, blamed) in [
        (VMCI, true),
        ("vmw_vsock_virtio_transport", false),
        ("hv_sock", false),
        ("vsock_loopback", false),
    ] {
        let found = refused("5.5.0").modules(&[(name, 0)]).finding(check, "transport");
        assert_eq!(found.verdict == Verdict::Fault, blamed, "{name}: {found:?}");
    }
    // vhost_vsock is loaded too, so VMCI is a guest's transport.
    let tree = Tree::new("6.1.0").modules(&[(VMCI, 3), ("vhost_vsock", 1)]);
    let found = tree.finding(check, "transport");
    assert_eq!(found.verdict, Verdict::Ok);
    assert!(found.meaning.contains("not in the host's place"), "{found:?}");
    // Another reason keeps it out.
    let tree =
        refused("6.1.0").modules(&[(VMCI, 0)]).probe(|probes| probes.cid = Err(libc::ENOENT));
    let tree = tree.file("/etc/modprobe.d/x.conf", "blacklist vhost_vsock\n");
    assert_eq!(tree.finding(check, "transport").verdict, Verdict::Ok);
    // The place is taken, whatever the error of the device is.
    let tree = Tree::new("6.1.0").modules(&[(VMCI, 0)]);
    let tree = tree.probe(|probes| probes.vhost = Err(libc::ENOENT));
    let found = tree.finding(check, "transport");
    assert_eq!(found.verdict, Verdict::Fault);
    assert!(found.evidence.contains("CID 2 already"), "{found:?}");
}

#[test]
fn a_transport_in_use_is_kept_out_for_good_and_its_holders_are_named() {
    let tree = refused("6.1.0")
        .modules(&[(VMCI, 2)])
        .file("/proc/812/comm", "vmtoolsd\n")
        .file("/proc/9/comm", "bash\n")
        .link("/proc/9/fd/0", "/dev/null")
        .file("/proc/4000/comm", "vmx-thing\n")
        .link("/proc/4000/fd/7", "/dev/vmci");
    let found = tree.finding(check, "transport");
    assert!(found.evidence.contains("with 2 users"), "{found:?}");
    assert!(found.evidence.contains("vmtoolsd of open-vm-tools (process 812)"), "{found:?}");
    assert!(found.evidence.contains("vmx-thing (process 4000)"), "{found:?}");
    assert!(!found.evidence.contains("bash"), "{found:?}");
    let hint = found.hint.unwrap();
    assert!(!hint.safe);
    let hint = hint.to_string();
    let ban = "\"echo 'blacklist vmw_vsock_vmci_transport' > /etc/modprobe.d/no-vsock-vmci.conf\"";
    assert!(hint.starts_with(ban) && hint.contains("reboot"), "{hint}");
    assert!(hint.contains("systemctl stop open-vm-tools"), "{hint}");
    // The kernel names the users that are modules.
    let line = format!("{VMCI} 40960 1 other, Live 0xffff\n");
    let found = refused("6.1.0").file("/proc/modules", &line).finding(check, "transport");
    assert!(found.evidence.contains("with 1 users: the module other;"), "{found:?}");
}

#[test]
fn the_own_cid_says_what_this_machine_is() {
    for (cid, part) in [
        (None, "is not seen"),
        (Some(u32::MAX), "no transport is loaded"),
        (Some(1), "only vsock_loopback"),
        (Some(2), "a host"),
        (Some(77), "knows it as CID 77"),
    ] {
        let found = Tree::new("6.1.0")
            .probe(|probes| probes.cid = cid.map(Cid::new).ok_or(libc::ENOENT))
            .finding(check, "cid");
        assert_eq!(found.verdict, Verdict::Ok);
        assert!(found.meaning.contains(part), "{cid:?}: {found:?}");
    }
}

#[test]
fn loopback_is_never_a_fault() {
    let tree = Tree::new("6.1.0").modules(&[("vsock_loopback", 0)]);
    assert!(tree.finding(check, "loopback").meaning.contains("CID 1"));
    assert_eq!(Tree::new("6.1.0").finding(check, "loopback").verdict, Verdict::Ok);
    assert_eq!(check(&Tree::new("5.4.0").machine()).len(), 2);
}
