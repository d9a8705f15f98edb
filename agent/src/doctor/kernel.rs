//! Whether this kernel has AF_VSOCK at all, and the host's half of it.

use super::{
    Finding, Machine, Verdict,
    machine::Source,
    mend::{Mend, Step},
};

/// The first kernel with vhost_vsock.
const VHOST: (u32, u32) = (4, 8);
/// From this one on the host's and the guest's transport live side by side.
pub(super) const SIDE_BY_SIDE: (u32, u32) = (5, 5);

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    vec![version(machine), family(machine)]
}

fn version(machine: &Machine) -> Finding {
    let release = machine.release();
    let finding = |verdict| {
        Finding::new("kernel", verdict, "the kernel's version", format!("Linux {release}"))
    };
    match machine.version() {
        None => finding(Verdict::Warning).meaning("the version cannot be read from that"),
        Some(version) if version < VHOST => finding(Verdict::Fault)
            .meaning("vhost_vsock, which connects guests to AF_VSOCK, came with Linux 4.8")
            .mend(Mend::advice("boot a kernel of 4.8 or later")),
        Some(version) if version < SIDE_BY_SIDE => finding(Verdict::Ok).meaning(
            "before Linux 5.5 there is one vsock transport at a time: any other one keeps \
             vhost_vsock out",
        ),
        Some(_) => finding(Verdict::Ok).meaning(
            "the host's transport (vhost_vsock) and a guest's live side by side since Linux 5.5",
        ),
    }
}

fn family(machine: &Machine) -> Finding {
    let checked = "AF_VSOCK in this kernel";
    let finding = |verdict, evidence: String| Finding::new("vsock", verdict, checked, evidence);
    if knows_vsock(machine) {
        return finding(Verdict::Ok, "AF_VSOCK is in /proc/net/protocols".into())
            .meaning("the kernel has vsock sockets");
    }
    if machine.probes.socket.is_ok() {
        return finding(Verdict::Ok, "socket(AF_VSOCK) succeeds".into())
            .meaning("the kernel has vsock sockets");
    }
    let unknown = "AF_VSOCK is not in /proc/net/protocols";
    if let Some(file) = machine.kept_out("vsock") {
        return finding(Verdict::Fault, format!("{unknown}; {file} keeps the module vsock out"))
            .meaning("an administrator has forbidden the module")
            .mend(Mend::advice(format!(
                "take its line out of {file}, then 'modprobe vhost_vsock'"
            )));
    }
    match machine.source("vsock") {
        Source::File => {
            finding(Verdict::Fault, format!("{unknown}; the module vsock is not loaded"))
                .meaning("the module is there and nothing has loaded it")
                .mend(load())
        }
        Source::Missing => {
            finding(Verdict::Fault, format!("{unknown}; this kernel has no module vsock"))
                .meaning("this kernel was built or packaged without vsock")
                .mend(Mend::advice(missing(machine)))
        }
        Source::BuiltIn | Source::Unknown => {
            finding(Verdict::Fault, format!("{unknown}{}", config(machine, "CONFIG_VSOCKETS")))
                .meaning("this kernel has no vsock, or no list of its modules is here")
                .mend(Mend::advice(missing(machine)))
        }
    }
}

/// Whether the address family is there, whatever this process may do with it.
pub(super) fn knows_vsock(machine: &Machine) -> bool {
    let protocols = machine.read("/proc/net/protocols").unwrap_or_default();
    protocols.lines().any(|line| line.split_whitespace().next() == Some("AF_VSOCK"))
}

/// Loads the host's half now and at each start.
pub(super) fn load() -> Mend {
    Mend::safe(vec![
        Step::Run(&["modprobe", "vhost_vsock"]),
        Step::Write { path: "/etc/modules-load.d/vhost_vsock.conf", line: "vhost_vsock" },
    ])
}

/// Where a module comes from that is not there.
pub(super) fn missing(machine: &Machine) -> String {
    let release = machine.release();
    if let Some(kind) = machine.container() {
        return format!("this is a container ({kind}): ask its host, run 'agent doctor' there");
    }
    let others = machine.list("/lib/modules");
    if !others.is_empty() && !others.contains(&release) {
        return format!(
            "the modules of the running kernel {release} are gone, those of {} are there: reboot",
            others.join(", ")
        );
    }
    format!(
        "install the whole kernel (Ubuntu: linux-modules-extra-{release}; Debian: linux-image-ARCH \
         instead of its cloud variant; Fedora: kernel-modules), or build one with \
         CONFIG_VHOST_VSOCK=m"
    )
}

/// What the kernel's configuration says, as more evidence.
pub(super) fn config(machine: &Machine, option: &str) -> String {
    let release = machine.release();
    let text = machine
        .read(&format!("/boot/config-{release}"))
        .or_else(|| machine.read(&format!("/lib/modules/{release}/config")));
    let unset = format!("# {option} is not set");
    let line = text.as_deref().and_then(|text| {
        text.lines().find(|line| **line == unset || line.starts_with(&format!("{option}=")))
    });
    line.map(|line| format!("; the kernel's configuration says '{line}'")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::Tree;

    #[test]
    fn versions_are_told_apart() {
        for (release, verdict, part) in [
            ("4.7.0-generic", Verdict::Fault, "came with Linux 4.8"),
            ("4.8.0", Verdict::Ok, "one vsock transport at a time"),
            ("5.4.0-150-generic", Verdict::Ok, "one vsock transport at a time"),
            ("5.5.0-rc1", Verdict::Ok, "side by side"),
            ("6.12.9+bpo-cloud-amd64", Verdict::Ok, "side by side"),
            ("", Verdict::Warning, "cannot be read"),
        ] {
            let found = Tree::new(release).finding(check, "kernel");
            assert_eq!(found.verdict, verdict, "{release}");
            assert!(found.meaning.contains(part), "{release}: {found:?}");
        }
    }

    #[test]
    fn a_kernel_without_vsock_is_told_from_one_that_has_not_loaded_it() {
        let without = || Tree::new("6.1.0").probe(|probes| probes.socket = Err(libc::EAFNOSUPPORT));
        for (tree, part) in [
            (without().loadable(&["vsock"]), "\"modprobe vhost_vsock\""),
            (without().loadable(&["loop"]), "linux-modules-extra-6.1.0"),
            (
                without().file("/lib/modules/6.2.0/modules.dep", ""),
                "those of 6.2.0 are there: reboot",
            ),
            (without().file("/.dockerenv", ""), "container (docker)"),
            (
                without().loadable(&["vsock"]).file("/etc/modprobe.d/x.conf", "blacklist vsock"),
                "out of /etc/modprobe.d/x.conf",
            ),
        ] {
            let found = tree.finding(check, "vsock");
            assert_eq!(found.verdict, Verdict::Fault);
            assert!(found.mend.unwrap().to_string().contains(part), "{part}");
        }
        let configured = without().file("/boot/config-6.1.0", "# CONFIG_VSOCKETS is not set\n");
        assert!(configured.finding(check, "vsock").evidence.ends_with("VSOCKETS is not set'"));
        let known = without().file("/proc/net/protocols", "protocol size\nAF_VSOCK 1240 0\n");
        assert_eq!(known.finding(check, "vsock").verdict, Verdict::Ok);
    }
}
