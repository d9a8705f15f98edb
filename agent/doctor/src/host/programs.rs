//! The programs that start guests: QEMU with its vsock devices, and libvirt.

use crate::{Finding, Verdict, hint::Hint, machine::Machine, run::Asked};

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let mut findings: Vec<_> = machine.probes.qemu.iter().map(qemu).collect();
    if findings.is_empty() {
        let others = &machine.probes.hypervisors;
        let others = if others.is_empty() {
            "Firecracker and Cloud Hypervisor need none".to_owned()
        } else {
            format!("{} needs none, and is here", others.join(", "))
        };
        let evidence = "neither qemu-system of this architecture nor qemu-kvm is in the PATH";
        findings.push(
            Finding::new("qemu", Verdict::Warning, "QEMU and its vsock devices", evidence)
                .meaning(format!(
                    "no guest of QEMU can be started here; {others}: '--listen hybrid:PATH' serves \
                     their guests"
                ))
                .hint(Hint::advice(
                    "install it (Debian: qemu-system-x86, Fedora: qemu-kvm), or put it into the PATH",
                )),
        );
    }
    findings.push(libvirt(machine));
    findings
}

fn qemu(Asked { program, answer }: &Asked) -> Finding {
    let checked = format!("the vsock devices of {program}");
    let finding = |verdict, evidence: String| Finding::new("qemu", verdict, &checked, evidence);
    let help = match answer {
        Ok(help) => help,
        Err(error) => {
            return finding(Verdict::Warning, format!("'-device help' fails: {error}"))
                .meaning("this QEMU does not run")
                .hint(Hint::advice(format!("try '{program} -device help'")));
        }
    };
    let names = devices(help);
    if names.iter().any(|name| name.starts_with("vhost-vsock")) {
        return finding(Verdict::Ok, names.join(", ")).meaning("its guests can have vsock");
    }
    if names.is_empty() {
        return finding(Verdict::Warning, "none".into())
            .meaning("this QEMU was built without vsock, or older than 2.8")
            .hint(Hint::advice("install a QEMU of 2.8 or later with vhost-vsock"));
    }
    finding(Verdict::Warning, names.join(", "))
        .meaning("its guests can have vsock by vhost-user only")
        .hint(Hint::advice(
            "serve them with '--listen vhost-user:PATH', or install a QEMU with vhost-vsock",
        ))
}

/// The vsock devices in an answer to `-device help`.
fn devices(help: &str) -> Vec<&str> {
    let names = help.lines().filter_map(|line| line.strip_prefix("name \"")?.split('"').next());
    names.filter(|name| name.contains("vsock")).collect()
}

/// The first QEMU that has a device whose name starts with `device`.
pub(super) fn with_device<'a>(machine: &'a Machine, device: &str) -> Option<&'a str> {
    let has = |Asked { answer, .. }: &&Asked| {
        answer.as_ref().is_ok_and(|help| devices(help).iter().any(|name| name.starts_with(device)))
    };
    machine.probes.qemu.iter().find(has).map(|asked| asked.program.as_str())
}

fn libvirt(machine: &Machine) -> Finding {
    let checked = "libvirt, by virsh -c qemu:///system";
    let finding = |verdict, evidence: String| Finding::new("libvirt", verdict, checked, evidence);
    match machine.probes.libvirt.as_ref().map(|asked| &asked.answer) {
        None => finding(Verdict::Ok, "virsh is not installed".into())
            .meaning("no libvirt can be asked; QEMU does not need it"),
        Some(Ok(answer)) => {
            let versions = answer.lines().filter(|line| {
                line.starts_with("Using library") || line.starts_with("Running hypervisor")
            });
            let versions: Vec<_> = versions.collect();
            finding(Verdict::Ok, versions.join(", "))
                .meaning("it can be reached, and its domains can have <vsock>")
        }
        Some(Err(error)) => finding(Verdict::Warning, error.to_string())
            .meaning("virsh is there and does not reach the system's libvirt")
            .hint(Hint::advice(format!(
                "'systemctl start libvirtd' (or virtqemud.socket); users need the group libvirt \
                 ('usermod -aG libvirt {}')",
                machine.probes.user
            ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{run::NoAnswer, testing::Tree};

    #[test]
    fn qemu_is_known_by_its_devices() {
        let both = "Misc devices:\nname \"vhost-vsock-pci\", bus PCI\n\
                    name \"vhost-user-vsock-pci\", bus PCI\nname \"virtio-blk\", bus x\n";
        for (answer, verdict, part) in [
            (Ok(both), Verdict::Ok, "vhost-vsock-pci, vhost-user-vsock-pci"),
            (Ok("name \"vhost-user-vsock-pci\", bus PCI"), Verdict::Warning, "vhost-user"),
            (Ok("name \"e1000\", bus PCI"), Verdict::Warning, "none"),
            (Err("no answer in 5 s"), Verdict::Warning, "no answer in 5 s"),
        ] {
            let answer = answer.map(str::to_owned).map_err(|why| NoAnswer(why.into()));
            let asked = Asked { program: "qemu-kvm".into(), answer };
            let tree = Tree::new("6.1.0").probe(|probes| probes.qemu = vec![asked]);
            let found = tree.finding(check, "qemu");
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert!(found.evidence.contains(part), "{found:?}");
        }
        let found = Tree::new("6.1.0").finding(check, "qemu");
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.meaning.contains("--listen hybrid:PATH"), "{found:?}");
    }

    #[test]
    fn a_libvirt_that_cannot_be_reached_is_a_warning() {
        let asked = |answer: Result<&str, &str>| {
            let answer = answer.map(str::to_owned).map_err(|why| NoAnswer(why.into()));
            let asked = Some(Asked { program: "virsh".into(), answer });
            let tree = Tree::new("6.1.0").probe(|probes| probes.libvirt = asked);
            tree.finding(check, "libvirt")
        };
        assert_eq!(Tree::new("6.1.0").finding(check, "libvirt").verdict, Verdict::Ok);
        let said = "Using library: libvirt 11.3.0\nRunning hypervisor: QEMU 10.0.2\n";
        assert!(asked(Ok(said)).evidence.ends_with("QEMU 10.0.2"));
        let found = asked(Err("error: failed to connect to the hypervisor"));
        assert_eq!(found.verdict, Verdict::Warning);
    }
}
