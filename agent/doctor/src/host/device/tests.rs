//! The failures of the device and their hints.

use super::*;
use crate::testing::Tree;

#[test]
fn every_failure_of_the_device_has_its_own_hint() {
    let tree = |errno| Tree::new("6.1.0").probe(|probes| probes.vhost = Err(errno));
    let user = |tree: Tree| tree.probe(|probes| probes.user = "ann".into());
    for (tree, meaning, hint) in [
        (
            tree(libc::ENOENT).loadable(&["vhost_vsock"]),
            "nothing has loaded it",
            "\"modprobe vhost_vsock\", then \"echo 'vhost_vsock' > /etc/modules-load.d/",
        ),
        (
            tree(libc::ENOENT).loadable(&["vsock"]),
            "built or packaged without",
            "linux-modules-extra-6.1.0",
        ),
        (tree(libc::ENOENT), "built without vhost_vsock", "CONFIG_VHOST_VSOCK=m"),
        (
            tree(libc::ENOENT).config("CONFIG_VSOCKETS=y\n"),
            "was built without the host's half",
            "no package adds it",
        ),
        (
            tree(libc::ENOENT).config("CONFIG_VHOST_VSOCK=m\n").loadable(&["vsock"]),
            "is not installed",
            "linux-modules-extra-6.1.0",
        ),
        (tree(libc::ENOENT).config("CONFIG_VHOST_VSOCK=y\n"), "could not start", "dmesg"),
        // A file of a container's image.
        (
            tree(libc::ENOENT).file("/.dockerenv", "").loadable(&["vhost_vsock"]),
            "nothing has loaded it",
            "\"modprobe vhost_vsock\"",
        ),
        (tree(libc::ENOENT).docker(), "container (docker)", "--device"),
        (tree(libc::ENOENT).modules(&[("vhost_vsock", 0)]), "node was removed", "mknod"),
        (
            tree(libc::ENODEV)
                .loadable(&["vhost_vsock"])
                .file("/usr/lib/modprobe.d/hard.conf", "install vhost_vsock /bin/false"),
            "forbidden the module",
            "take its line out of /usr/lib/modprobe.d/hard.conf",
        ),
        (
            tree(libc::ENODEV)
                .loadable(&["vhost_vsock"])
                .modules(&[("vmw_vsock_vmci_transport", 0)]),
            "VMCI is this host's vsock transport",
            "\"modprobe -r vmw_vsock_vmci_transport\", then \"modprobe vhost_vsock\"",
        ),
        // VMCI is loaded and not the reason: vhost_vsock is not installed.
        (
            tree(libc::ENODEV).loadable(&["loop"]).modules(&[("vmw_vsock_vmci_transport", 0)]),
            "built or packaged without",
            "linux-modules-extra",
        ),
        (
            tree(libc::ENODEV).file("/lib/modules/6.1.0/modules.builtin", "k/vhost_vsock.ko\n"),
            "could not start",
            "dmesg",
        ),
        (
            user(tree(libc::EACCES).node(0o660, "kvm")),
            "those in the group kvm do",
            "usermod -aG kvm ann",
        ),
        (
            user(tree(libc::EACCES).node(0o660, "kvm")).file("/etc/group", "kvm:x:104:bob,ann\n"),
            "this login is from before",
            "log in anew",
        ),
        (
            user(tree(libc::EACCES).node(0o660, "kvm")).file("/etc/group", "kvm:x:104:annie\n"),
            "those in the group kvm do",
            "usermod -aG kvm ann",
        ),
        (user(tree(libc::EACCES).node(0o600, "root")), "only root", "udev/rules.d"),
        (tree(libc::EPERM).node(0o660, "kvm"), "device rules", "DeviceAllow"),
        (tree(libc::EACCES), "forbids it", "on the host"),
        (tree(libc::EIO), "not a usual one", "dmesg"),
    ] {
        let found = tree.finding(check, "vhost-vsock");
        assert_eq!(found.verdict, Verdict::Fault, "{found:?}");
        assert!(found.meaning.contains(meaning), "{meaning}: {found:?}");
        let said = found.hint.unwrap().to_string();
        assert!(said.contains(hint), "{hint}: {said}");
    }
}

#[test]
fn every_fault_of_the_device_names_the_alternative() {
    for errno in [libc::ENOENT, libc::ENODEV, libc::EACCES, libc::EIO] {
        let tree = Tree::new("6.1.0").probe(|probes| probes.vhost = Err(errno));
        let hint = tree.finding(check, "vhost-vsock").hint.unwrap().to_string();
        assert!(hint.contains("'agent --listen vhost-user:PATH'"), "{hint}");
    }
}

#[test]
fn a_device_that_opens_is_ok() {
    let tree = Tree::new("6.1.0").node(0o660, "kvm");
    assert_eq!(check(&tree.machine()).len(), 1);
    assert_eq!(tree.finding(check, "vhost-vsock").verdict, Verdict::Ok);
}

#[test]
fn a_device_open_to_all_is_a_warning_with_a_safe_fix() {
    const CHMOD: &str = "\"chmod 0660 /dev/vhost-vsock\"";
    const CHGRP: &str = "\"chgrp kvm /dev/vhost-vsock\"";
    let tree = |group| Tree::new("6.1.0").node(0o666, group);
    let kvm = |tree: Tree| tree.file("/etc/group", "root:x:0:\nkvm:x:104:\n");
    for (tree, steps, part) in [
        (kvm(tree("kvm")), vec![CHMOD], "GROUP=\"kvm\", MODE=\"0660\""),
        (kvm(tree("root")), vec![CHGRP, CHMOD], "GROUP=\"kvm\", MODE=\"0660\""),
        (tree("root"), vec![CHMOD], "only root starts guests"),
    ] {
        let found = tree.finding(check, "vhost-vsock-mode");
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.evidence.starts_with("0666, root:"), "{found:?}");
        let hint = found.hint.unwrap();
        assert!(hint.safe && hint.steps.len() == steps.len() + 1, "{hint}");
        let said = hint.to_string();
        assert!(said.starts_with(&steps.join(", then ")), "{said}");
        assert!(said.contains("> /etc/udev/rules.d/99-vhost-vsock.rules") && said.contains(part));
    }
    let rule = "# MODE=\"0666\"\nKERNEL==\"vhost-vsock\", GROUP=\"kvm\", MODE=\"0666\"\n";
    let tree = kvm(tree("kvm")).file("/usr/lib/udev/rules.d/50-udev-default.rules", rule);
    let found = tree.finding(check, "vhost-vsock-mode");
    assert_eq!(found.evidence, "0666, root:kvm, by /usr/lib/udev/rules.d/50-udev-default.rules");
}

#[test]
fn an_error_of_the_device_has_its_hint() {
    for (errno, part) in [
        (libc::ENOENT, "nothing has loaded it: \"modprobe vhost_vsock\""),
        (libc::ENODEV, "does not settle why: \"modprobe vhost_vsock\""),
        (libc::EACCES, "'agent --listen vhost-user:PATH'"),
    ] {
        let tree = Tree::new("6.1.0").loadable(&["vhost_vsock"]);
        let tree = tree.probe(|probes| probes.vhost = Err(errno));
        let hint = hint_on(&tree.machine()).unwrap();
        assert!(hint.contains(part) && hint.ends_with("'agent doctor' says more"), "{hint}");
        assert!(!hint.contains('\n'), "{hint}");
    }
    // The device is all right.
    assert_eq!(hint_on(&Tree::new("6.1.0").machine()), None);
}
