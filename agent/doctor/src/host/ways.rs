//! The three ways in which a guest reaches an agent. One is the kernel's vsock, which the checks are
//! about. The other two need neither a module nor root, only a hypervisor.

use super::programs;
use crate::{Finding, Verdict, machine::Machine, probes::HYBRID};

/// A way in which a guest reaches an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// A word for programs, which does not change between versions.
    pub id: &'static str,
    /// The agent's option for this way.
    pub option: &'static str,
    /// Whether a guest could be served in this way now.
    pub works: bool,
    /// What the way works by, or what it lacks.
    pub why: String,
}

pub(super) fn ways(machine: &Machine, findings: &[Finding]) -> Vec<Way> {
    vec![vsock(findings), vhost_user(machine), hybrid(machine)]
}

fn vsock(findings: &[Finding]) -> Way {
    let fault = findings.iter().find(|finding| finding.verdict == Verdict::Fault);
    let why = fault.map_or_else(
        || "no check has found a fault".to_owned(),
        |Finding { id, meaning, .. }| format!("{id}: {meaning}"),
    );
    Way { id: "vsock", option: "--vsock", works: fault.is_none(), why }
}

fn vhost_user(machine: &Machine) -> Way {
    let program = programs::with_device(machine, "vhost-user-vsock");
    let why = match program {
        Some(program) => format!(
            "{program} has vhost-user-vsock-pci; the guest's memory must be shared ('agent qemu args \
             --help')"
        ),
        None => "no QEMU with vhost-user-vsock-pci (5.1 or later) is in the PATH".into(),
    };
    Way { id: "vhost-user", option: "--listen vhost-user:PATH", works: program.is_some(), why }
}

fn hybrid(machine: &Machine) -> Way {
    let found = &machine.probes.hypervisors;
    let why = if found.is_empty() {
        format!("neither {} is in the PATH", HYBRID.join(" nor "))
    } else {
        format!("{} is in the PATH", found.join(", "))
    };
    Way { id: "hybrid", option: "--listen hybrid:PATH", works: !found.is_empty(), why }
}

#[cfg(test)]
mod tests {
    use crate::{host::report, run::Asked, testing::Tree};

    fn works(tree: &Tree) -> [bool; 3] {
        let report = report(&tree.machine());
        let works: Vec<_> = report.ways.iter().map(|way| way.works).collect();
        assert_eq!(report.served(), works[0], "what is served is served over the kernel's vsock");
        assert!(report.ways.iter().all(|way| !way.why.is_empty()));
        works.try_into().unwrap()
    }

    #[test]
    fn a_way_works_even_where_another_does_not() {
        let known = || Tree::new("6.1.0").file("/proc/net/protocols", "AF_VSOCK 1240 0\n");
        let qemu = |tree: Tree, devices: &str| {
            let answer = Ok(format!("name \"{devices}\", bus PCI\n"));
            let asked = Asked { program: "qemu-kvm".into(), answer };
            tree.probe(|probes| probes.qemu = vec![asked])
        };
        let broken = || known().probe(|probes| probes.vhost = Err(libc::ENOENT));
        assert_eq!(works(&known()), [true, false, false]);
        assert_eq!(works(&qemu(known(), "vhost-vsock-pci")), [true, false, false]);
        assert_eq!(works(&qemu(broken(), "vhost-user-vsock-pci")), [false, true, false]);
        let firecracker = broken().probe(|probes| probes.hypervisors = vec!["firecracker".into()]);
        assert_eq!(works(&firecracker), [false, false, true]);
        let report = report(&broken().machine());
        assert!(report.ways[0].why.starts_with("vhost-vsock: "), "{:?}", report.ways);
    }
}
