//! /dev/vhost-vsock: what QEMU opens to give its guest a CID.

use super::{
    Finding, Machine, Verdict,
    container::Container,
    kernel::{self, Set, VHOST_VSOCK},
    machine::Source,
    mend::{Mend, Step},
    probes::Node,
    transport,
};

const CHECKED: &str = "opening /dev/vhost-vsock, as QEMU does";

const RULE: Step = Step::Write {
    path: "/etc/udev/rules.d/99-vhost-vsock.rules",
    line: r#"KERNEL=="vhost-vsock", GROUP="kvm", MODE="0660", OPTIONS+="static_node=vhost-vsock""#,
};

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let node = machine.probes.node.as_ref();
    let mut findings = vec![match machine.probes.vhost {
        Ok(()) => Finding::new("vhost-vsock", Verdict::Ok, CHECKED, "it opens")
            .meaning("guests can be given CIDs"),
        Err(libc::ENOENT) => missing(machine),
        Err(libc::ENODEV | libc::ENXIO) => {
            not_loaded(machine, "the node is there and opening it fails with ENODEV")
        }
        Err(libc::EACCES | libc::EPERM) => forbidden(machine, node),
        Err(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            Finding::new("vhost-vsock", Verdict::Fault, CHECKED, format!("{error}"))
                .meaning("the device does not open, for a reason that is not a usual one")
                .mend(Mend::advice("the kernel's log ('dmesg') may say more"))
        }
    }];
    findings.extend(node.and_then(open_to_all));
    findings
}

fn missing(machine: &Machine) -> Finding {
    if machine.module("vhost_vsock").is_none() && machine.container().is_none() {
        return not_loaded(machine, "there is no /dev/vhost-vsock");
    }
    let finding = |evidence: &str| Finding::new("vhost-vsock", Verdict::Fault, CHECKED, evidence);
    if let Some(Container { kind, evidence: proof }) = machine.container() {
        let meaning = if machine.has("/sys/class/misc/vhost-vsock") {
            format!("this is a container ({kind}) that was not given the device")
        } else {
            format!("this is a container ({kind}), and its host has not loaded vhost_vsock either")
        };
        return finding(&format!("there is no /dev/vhost-vsock; {proof}")).meaning(meaning).mend(
            Mend::advice(
                "run 'agent doctor' on its host, then start it with the device (docker and podman: \
             '--device /dev/vhost-vsock'); or run QEMU on the host",
            ),
        );
    }
    finding("the module vhost_vsock is loaded, and there is no /dev/vhost-vsock")
        .meaning("the node was removed, or udev and devtmpfs do not run here")
        .mend(Mend::advice(
            "make it: 'mknod -m 660 /dev/vhost-vsock c $(tr : \" \" < \
             /sys/class/misc/vhost-vsock/dev) && chgrp kvm /dev/vhost-vsock'",
        ))
}

/// The module is not there, and the reason decides about the mend.
fn not_loaded(machine: &Machine, seen: &str) -> Finding {
    let finding = |evidence: String| Finding::new("vhost-vsock", Verdict::Fault, CHECKED, evidence);
    if let Some(file) = machine.kept_out("vhost_vsock") {
        return finding(format!("{seen}; {file} keeps the module vhost_vsock out"))
            .meaning("an administrator has forbidden the module")
            .mend(Mend::advice(format!(
                "take its line out of {file}, then 'modprobe vhost_vsock'"
            )));
    }
    let source = kernel::source(machine, "vhost_vsock", VHOST_VSOCK);
    let configured = kernel::configured(machine, VHOST_VSOCK);
    if source == Source::Missing || (source == Source::Unknown && configured.set == Some(Set::No)) {
        let meaning = match configured.set {
            Some(Set::No) => "this kernel was built without the host's half of vsock",
            Some(_) => "this kernel's module for the host's half of vsock is not installed",
            None => "this kernel was built or packaged without the host's half of vsock",
        };
        let words = configured.said;
        return finding(format!("{seen}; this kernel has no module vhost_vsock{words}"))
            .meaning(meaning)
            .mend(Mend::advice(kernel::missing(machine, VHOST_VSOCK)));
    }
    if let Some(blocker) = transport::blocker(machine) {
        return finding(format!("{seen}; the module {} is loaded", blocker.name))
            .meaning("another vsock transport has the place that vhost_vsock needs")
            .mend(transport::unload(machine, &blocker));
    }
    match source {
        Source::Unknown => finding(format!(
            "{seen}; there is no list of modules for this kernel{}",
            configured.said
        ))
        .meaning("this kernel was built without vhost_vsock, or its modules are not installed")
        .mend(Mend::advice(kernel::missing(machine, VHOST_VSOCK))),
        Source::BuiltIn => finding(format!("{seen}; vhost_vsock is built into this kernel"))
            .meaning("it could not start when the kernel did")
            .mend(Mend::advice("look for vhost_vsock and vsock in the kernel's log ('dmesg')")),
        Source::File | Source::Missing => finding(format!("{seen}; vhost_vsock is not loaded"))
            .meaning("the module is there and nothing has loaded it")
            .mend(kernel::load()),
    }
}

fn forbidden(machine: &Machine, node: Option<&Node>) -> Finding {
    let user = &machine.probes.user;
    let Some(Node { mode, owner, group }) = node else {
        return Finding::new("vhost-vsock", Verdict::Fault, CHECKED, "it is forbidden")
            .meaning("a directory above it, a container or a security module forbids it")
            .mend(Mend::advice("see the findings below, or run 'agent doctor' on the host"));
    };
    let evidence = format!("{user} may not: its mode is {mode:04o}, its owner {owner}:{group}");
    let finding = Finding::new("vhost-vsock", Verdict::Fault, CHECKED, evidence);
    if user == "root" {
        return finding
            .meaning("root is refused by a container's device rules or by a security module")
            .mend(Mend::advice(
                "give the container the device ('--device /dev/vhost-vsock', systemd: \
                 'DeviceAllow=/dev/vhost-vsock rw'), or see the denials below",
            ));
    }
    if mode & 0o060 == 0o060 && group != "root" {
        return finding
            .meaning(format!("QEMU of this user gets no CID; those in the group {group} do"))
            .mend(Mend::advice(format!(
                "'usermod -aG {group} {user}' as root, then log in anew; or let libvirt start the \
                 guest, which opens the device itself"
            )));
    }
    finding.meaning("only root may give guests CIDs").mend(Mend {
        advice: format!("then 'usermod -aG kvm {user}' and a new login"),
        steps: vec![RULE, Step::Run(&["chgrp", "kvm", "/dev/vhost-vsock"]), MODE],
        // It widens who may, which is for an administrator to want.
        safe: false,
    })
}

const MODE: Step = Step::Run(&["chmod", "0660", "/dev/vhost-vsock"]);

fn open_to_all(node: &Node) -> Option<Finding> {
    let Node { mode, owner, group } = node;
    (mode & 0o006 != 0).then(|| {
        let evidence = format!("{mode:04o}, {owner}:{group}");
        let finding = Finding::new(
            "vhost-vsock-mode",
            Verdict::Warning,
            "the mode of /dev/vhost-vsock",
            evidence,
        );
        finding
            .meaning(
                "every user of this machine can start a guest with any free CID, so a CID says \
                 nothing about who asks (--allow-cid)",
            )
            .mend(
                Mend::unsafe_steps(
                    "",
                    vec![RULE, Step::Run(&["chgrp", "kvm", "/dev/vhost-vsock"]), MODE],
                )
                .and("users who start guests must be in the group kvm from then on"),
            )
    })
}

#[cfg(test)]
mod tests {
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
                "another vsock transport",
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
}
