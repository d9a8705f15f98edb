//! The vsock mode of this network namespace, on kernels that have one.

use crate::{Finding, Verdict, hint::Hint, machine::Machine};

const MODE: &str = "/proc/sys/net/vsock/ns_mode";
const OF_CHILDREN: &str = "/proc/sys/net/vsock/child_ns_mode";

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let checked = "the vsock mode of this network namespace";
    let finding = |verdict, evidence: String| Finding::new("namespace", verdict, checked, evidence);
    let Some(mode) = machine.value(MODE) else {
        return vec![
            finding(Verdict::Ok, "this kernel has none".into())
                .meaning("network namespaces do not divide vsock: guests of all of them are seen"),
        ];
    };
    let children = machine.value(OF_CHILDREN).unwrap_or_default();
    let evidence = format!("{mode}; new ones are {children}");
    vec![match (mode.as_str(), children.as_str()) {
        ("local", _) => finding(Verdict::Warning, evidence)
            .meaning("only guests whose QEMU was started in this very namespace reach an agent here")
            .hint(Hint::advice(
                "start the agent in QEMU's namespace ('nsenter -t PID-OF-QEMU -n agent ...'), or \
                 both in a global one; a namespace never changes its mode",
            )),
        (_, "local") => finding(Verdict::Warning, evidence)
            .meaning(
                "guests that are started in namespaces made from here (containers, PrivateNetwork=) \
                 do not reach an agent here",
            )
            .hint(Hint::advice(
                "'sysctl net.vsock.child_ns_mode=global' before those are made, where the kernel \
                 lets it, or an agent in each of them",
            )),
        _ => finding(Verdict::Ok, evidence).meaning("guests of all global namespaces are seen here"),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tree;

    #[test]
    fn a_local_namespace_is_a_warning() {
        assert_eq!(Tree::new("6.1.0").finding(check, "namespace").verdict, Verdict::Ok);
        for (mode, children, verdict, part) in [
            ("global\n", "global\n", Verdict::Ok, "all global namespaces"),
            ("global\n", "local\n", Verdict::Warning, "made from here"),
            ("local\n", "global\n", Verdict::Warning, "this very namespace"),
        ] {
            let tree = Tree::new("7.0.0").file(MODE, mode).file(OF_CHILDREN, children);
            let found = tree.finding(check, "namespace");
            assert_eq!(found.verdict, verdict);
            assert!(found.meaning.contains(part), "{found:?}");
        }
    }
}
