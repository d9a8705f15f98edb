//! Each way in which the device can fail, and its mend.

use super::*;
use crate::doctor::testing::Tree;

#[test]
fn every_way_the_device_can_fail_has_its_own_mend() {
    let tree = |errno| Tree::new("6.1.0").probe(|probes| probes.vhost = Err(errno));
    let user = |tree: Tree| tree.probe(|probes| probes.user = "ann".into());
    for (tree, meaning, mend) in [
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
            tree(libc::ENOENT).packed("/proc/config.gz", "CONFIG_VSOCKETS=y\n"),
            "was built without the host's half",
            "no package adds it",
        ),
        (
            tree(libc::ENOENT)
                .packed("/proc/config.gz", "CONFIG_VHOST_VSOCK=m\n")
                .loadable(&["vsock"]),
            "is not installed",
            "linux-modules-extra-6.1.0",
        ),
        (
            tree(libc::ENOENT).packed("/proc/config.gz", "CONFIG_VHOST_VSOCK=y\n"),
            "could not start",
            "dmesg",
        ),
        // An image of a container has left this behind.
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
        // Loaded, and not the reason: the module that should be there is not.
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
        (user(tree(libc::EACCES).node(0o600, "root")), "only root", "udev/rules.d"),
        (tree(libc::EPERM).node(0o660, "kvm"), "device rules", "DeviceAllow"),
        (tree(libc::EACCES), "forbids it", "on the host"),
        (tree(libc::EIO), "not a usual one", "dmesg"),
    ] {
        let found = tree.finding(check, "vhost-vsock");
        assert_eq!(found.verdict, Verdict::Fault, "{found:?}");
        assert!(found.meaning.contains(meaning), "{meaning}: {found:?}");
        let said = found.mend.unwrap().to_string();
        assert!(said.contains(mend), "{mend}: {said}");
    }
}

#[test]
fn a_device_that_opens_is_well_and_a_warning_where_it_opens_for_all() {
    let tree = Tree::new("6.1.0").node(0o660, "kvm");
    assert_eq!(check(&tree.machine()).len(), 1);
    assert_eq!(tree.finding(check, "vhost-vsock").verdict, Verdict::Ok);
    let tree = Tree::new("6.1.0").node(0o666, "kvm");
    let found = tree.finding(check, "vhost-vsock-mode");
    assert_eq!((found.verdict, found.evidence.as_str()), (Verdict::Warning, "0666, root:kvm"));
    assert!(found.mend.unwrap().to_string().contains("chmod 0660 /dev/vhost-vsock"));
}
