//! The reasons for ENODEV other than a transport.

use vsock_cid::Cid;

use super::*;
use crate::{
    Verdict,
    host::{device, transport},
    testing::Tree,
};

const VMCI: &str = "vmw_vsock_vmci_transport";

/// A machine that has vhost_vsock installed and not loaded. VMCI is loaded, and may be the reason or
/// not, since the machine is a guest of KVM too.
fn refused() -> Tree {
    Tree::new("6.1.0")
        .loadable(&["vhost_vsock"])
        .modules(&[(VMCI, 0), ("vmw_vsock_virtio_transport", 0)])
        .probe(|probes| (probes.vhost, probes.cid) = (Err(libc::ENODEV), Ok(Cid::new(77))))
}

#[test]
fn each_reason_has_its_evidence_and_its_hint() {
    const SIGNED: &str = "/sys/module/module/parameters/sig_enforce";
    const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
    let needs = |what: &str| {
        let line = format!("kernel/x/vhost_vsock.ko.xz: kernel/x/{what}.ko.xz\n");
        refused().file("/lib/modules/6.1.0/modules.dep", &line)
    };
    let logged = |tree: Tree, line: &str| {
        let line = format!("5,1,2,-;{line}\n");
        tree.probe(|probes| probes.log = line)
    };
    let rejected = "Loading of unsigned module is rejected";
    for (tree, evidence, meaning, hint) in [
        (
            refused().file("/proc/sys/kernel/modules_disabled", "1\n"),
            "modules_disabled is 1",
            "no module any more until its next start",
            "and reboot",
        ),
        (
            refused()
                .file("/proc/sys/kernel/modules_disabled", "1\n")
                .file("/etc/sysctl.d/50-hard.conf", "# x\nkernel.modules_disabled = 1\n"),
            "is 1, by /etc/sysctl.d/50-hard.conf",
            "on purpose",
            "modules-load.d/vhost_vsock.conf",
        ),
        (
            needs("vhost_iotlb"),
            "kernel/x/vhost_iotlb.ko.xz is not there",
            "file of vhost_iotlb is missing, a module that vhost_vsock needs",
            "depmod -a",
        ),
        (
            needs("vhost")
                .file("/lib/modules/6.1.0/kernel/x/vhost.ko.xz", "")
                .file("/etc/modprobe.d/h.conf", "install vhost /bin/true\n"),
            "/etc/modprobe.d/h.conf keeps the module vhost out",
            "forbidden vhost",
            "take its line out",
        ),
        (
            logged(refused().file(SIGNED, "Y\n"), rejected),
            "(module.sig_enforce); its log: 5,1,2,-;Loading of unsigned",
            "refused for its signature",
            "mokutil --import",
        ),
        (
            logged(
                refused().file(LOCKDOWN, "none [integrity] confidentiality\n"),
                "Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7",
            ),
            "in lockdown (integrity)",
            "refused for its signature",
            "kmodsign",
        ),
        (
            logged(refused(), "vhost_vsock: version magic '6.1.1 SMP' should be '6.1.0 SMP'"),
            "version magic '6.1.1",
            "was of another build",
            "modules of the running kernel (6.1.0)",
        ),
        (
            refused().file("/proc/sys/kernel/modprobe", "/sbin/none\n"),
            "/proc/sys/kernel/modprobe is /sbin/none, which is not there",
            "loads no module by itself",
            "\"modprobe vhost_vsock\"",
        ),
    ] {
        let found = tree.finding(device::check, "vhost-vsock");
        assert_eq!(found.verdict, Verdict::Fault);
        assert!(found.evidence.contains(evidence), "{evidence}: {found:?}");
        assert!(found.meaning.contains(meaning), "{meaning}: {found:?}");
        let said = found.hint.unwrap().to_string();
        assert!(said.contains(hint), "{hint}: {said}");
        let transport = tree.finding(transport::check, "transport");
        assert_ne!(transport.verdict, Verdict::Fault, "VMCI is not blamed: {transport:?}");
    }
}

#[test]
fn what_does_not_keep_the_module_out_is_no_reason() {
    let whole = refused().file("/proc/sys/kernel/modules_disabled", "0\n");
    let quiet = |tree: Tree| {
        assert!(obstacles(&tree.machine()).is_empty());
        assert!(logged(&tree.machine()).is_none());
    };
    quiet(whole);
    // vsock is loaded already, so its file does not matter.
    let line = "kernel/x/vhost_vsock.ko.xz: kernel/x/vhost.ko.xz\n";
    let tree = refused().file("/lib/modules/6.1.0/modules.dep", line);
    quiet(tree.modules(&[("vhost", 1), (VMCI, 0)]));
    // A blacklist keeps a module from being loaded by an alias, not as a dependency.
    let tree = refused().file("/lib/modules/6.1.0/modules.dep", line);
    let tree = tree.file("/lib/modules/6.1.0/kernel/x/vhost.ko.xz", "");
    quiet(tree.file("/etc/modprobe.d/h.conf", "blacklist vhost\n"));
    // A line about another module, and a signature that is not enforced.
    let log = "5,1,2,-;nvidia: Unknown symbol x (err -2)\n5,1,3,-;Loading of module with unavailable \
               key is rejected\n";
    quiet(refused().probe(|probes| probes.log = log.into()));
    let none = "[none] integrity confidentiality\n";
    let tree = refused().file("/sys/kernel/security/lockdown", none);
    quiet(tree.probe(|probes| probes.log = log.into()));
}

/// The log may be older than a fix; the machine's CID is current.
#[test]
fn a_proven_transport_comes_before_the_log() {
    let log = "4,521,2,-;vhost_vsock: Unknown symbol vhost_dev_init (err -2)\n";
    let tree = refused()
        .modules(&[(VMCI, 0)])
        .probe(|probes| (probes.log, probes.cid) = (log.into(), Ok(Cid::HOST)));
    let found = tree.finding(device::check, "vhost-vsock");
    assert!(found.meaning.starts_with("VMCI is this host's"), "{found:?}");
    // A present reason comes before the transport.
    let tree = tree.file("/proc/sys/kernel/modules_disabled", "1\n");
    let found = tree.finding(device::check, "vhost-vsock");
    assert!(found.evidence.ends_with("vmw_vsock_vmci_transport has its place"), "{found:?}");
}

#[test]
fn without_proof_the_finding_is_unsettled() {
    for (tree, evidence) in [
        // The guest's CID hides which transport is the host's.
        (refused(), "vmw_vsock_vmci_transport may have the host's place"),
        (
            refused().modules(&[]).file("/sys/module/module/parameters/sig_enforce", "Y\n"),
            "no log that may be read here says",
        ),
        (refused().modules(&[]), "opening it fails with ENODEV"),
    ] {
        let found = tree.finding(device::check, "vhost-vsock");
        assert!(found.evidence.contains(evidence), "{evidence}: {found:?}");
        assert!(found.meaning.contains("does not settle"), "{found:?}");
        let hint = found.hint.unwrap();
        assert!(hint.safe, "loading it by name harms nothing");
        let said = hint.to_string();
        for words in ["\"modprobe vhost_vsock\"", "Device or resource busy", "Key was rejected"] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    // Without the node the kernel has not tried to load the module.
    let tree = refused().modules(&[]).probe(|probes| probes.vhost = Err(libc::ENOENT));
    let found = tree.finding(device::check, "vhost-vsock");
    assert!(found.meaning.contains("nothing has loaded it"), "{found:?}");
}
