//! The findings on machines that `tests/guest/record.sh` has recorded. One is a small VM whose kernel has no
//! modules; the others are a Debian VM host with the faults that `tests/tests/guest_doctor.rs` causes.

use super::{device, kernel, transport};
use crate::{Verdict, testing::Tree};

macro_rules! tree {
    ($name:literal) => {
        include_str!(concat!("trees/", $name, ".tree"))
    };
}

#[test]
fn recorded_machines_have_their_findings() {
    use Verdict::{Fault, Ok, Warning};
    let vmci = "vmw_vsock_vmci_transport";
    for (name, text, findings) in [
        (
            "everything right",
            tree!("everything-right"),
            &[("vhost-vsock", Ok, "it opens"), ("transport", Ok, "none is loaded")][..],
        ),
        (
            "open to all",
            tree!("open-to-all"),
            &[("vhost-vsock", Ok, "it opens"), ("vhost-vsock-mode", Warning, "0666, root:kvm")],
        ),
        (
            "VMCI first",
            tree!("vmci-first"),
            &[("vhost-vsock", Ok, "it opens"), ("transport", Ok, vmci)],
        ),
        (
            "VMCI in the host's place",
            tree!("vmci-in-the-hosts-place"),
            &[("vhost-vsock", Fault, "ENODEV"), ("transport", Fault, "python3 (process 1529)")],
        ),
        (
            "no vhost_vsock",
            tree!("without-vhost-vsock"),
            &[("vhost-vsock", Fault, "no module vhost_vsock"), ("transport", Ok, "")],
        ),
        (
            "no modules at all",
            tree!("kernel-without-modules"),
            &[("kernel", Ok, "6.18.44"), ("vhost-vsock", Fault, "there is no /dev/vhost-vsock")],
        ),
    ] {
        let machine = Tree::recorded(text);
        let machine = machine.machine();
        let found = [kernel::check(&machine), device::check(&machine), transport::check(&machine)];
        let found = found.concat();
        for (id, verdict, evidence) in findings {
            let finding = found.iter().find(|finding| finding.id == *id);
            let finding = finding.unwrap_or_else(|| panic!("{name}: no {id}: {found:#?}"));
            assert_eq!(finding.verdict, *verdict, "{name}: {finding:#?}");
            assert!(finding.evidence.contains(evidence), "{name}: {finding:#?}");
            assert_eq!(finding.hint.is_some(), *verdict != Ok, "{name}: {finding:#?}");
        }
    }
}
