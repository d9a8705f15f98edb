//! Whether this kernel has AF_VSOCK, and the host's half of it.

use super::container::{Container, container};
use crate::{
    Finding, Verdict,
    hint::{Hint, Step},
    machine::Machine,
    modules::Source,
    probes::OWN_CONFIG,
};

/// The options of the kernel's configuration for AF_VSOCK and for the host's half of it.
pub(super) const VSOCKETS: &str = "CONFIG_VSOCKETS";
pub(super) const VHOST_VSOCK: &str = "CONFIG_VHOST_VSOCK";

/// The first kernel with vhost_vsock.
const VHOST: (u32, u32) = (4, 8);
/// The first kernel with a place for a host's transport and one for a guest's.
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
            .hint(Hint::advice("boot a kernel of 4.8 or later")),
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
    if machine.knows_vsock() {
        return finding(Verdict::Ok, "AF_VSOCK is in /proc/net/protocols".into())
            .meaning("the kernel has vsock sockets");
    }
    if machine.probes.socket.is_ok() {
        return finding(Verdict::Ok, "socket(AF_VSOCK) succeeds".into())
            .meaning("the kernel has vsock sockets");
    }
    let unknown = "AF_VSOCK is not in /proc/net/protocols";
    if let Some(ban) = machine.kept_out("vsock") {
        let by = &ban.by;
        return finding(Verdict::Fault, format!("{unknown}; {by} keeps the module vsock out"))
            .meaning("an administrator has forbidden the module")
            .hint(Hint::advice(ban.lifted()));
    }
    match source(machine, "vsock", VSOCKETS) {
        Source::File => {
            finding(Verdict::Fault, format!("{unknown}; the module vsock is not loaded"))
                .meaning("the module is there and nothing has loaded it")
                .hint(load())
        }
        Source::Missing => {
            let said = configured(machine, VSOCKETS).said;
            finding(Verdict::Fault, format!("{unknown}; this kernel has no module vsock{said}"))
                .meaning("this kernel was built or packaged without vsock")
                .hint(Hint::advice(missing(machine, VSOCKETS)))
        }
        Source::BuiltIn | Source::Unknown => {
            finding(Verdict::Fault, format!("{unknown}{}", configured(machine, VSOCKETS).said))
                .meaning("this kernel has no vsock, or no list of its modules is here")
                .hint(Hint::advice(missing(machine, VSOCKETS)))
        }
    }
}

/// Loads vhost_vsock now and at each start.
pub(super) fn load() -> Hint {
    Hint::safe(vec![Step::Run(&["modprobe", "vhost_vsock"]), AT_START])
}

pub(super) const AT_START: Step =
    Step::Write { path: "/etc/modules-load.d/vhost_vsock.conf", line: "vhost_vsock" };

/// How to get a module that is not installed.
pub(super) fn missing(machine: &Machine, option: &str) -> String {
    let release = machine.release();
    if let Some(Container { kind, .. }) = container(machine) {
        return format!("this is a container ({kind}): ask its host, run 'agent doctor' there");
    }
    let configured = configured(machine, option);
    if configured.set == Some(Set::No) {
        return format!(
            "boot a kernel that has it (those of distributions do, some for clouds and microVMs \
             do not), or build one with {option}=m: no package adds it to this one"
        );
    }
    let others = machine.list("/lib/modules");
    if !others.is_empty() && !others.contains(&release) {
        return format!(
            "the modules of the running kernel {release} are gone, those of {} are there: reboot",
            others.join(", ")
        );
    }
    if configured.set == Some(Set::Module) {
        return format!(
            "install the rest of this kernel's modules (Ubuntu: linux-modules-extra-{release}; \
             Fedora: kernel-modules), then 'modprobe vhost_vsock'"
        );
    }
    format!(
        "install the whole kernel (Ubuntu: linux-modules-extra-{release}; Debian: linux-image-ARCH \
         instead of its cloud variant; Fedora: kernel-modules), or build one with {option}=m"
    )
}

/// The value of an option of the kernel's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    BuiltIn,
    Module,
    No,
}

/// An option in the kernel's configuration.
pub(super) struct Configured {
    /// `None`: no configuration can be read here.
    pub(super) set: Option<Set>,
    /// A text to append to other evidence; empty without a configuration.
    pub(super) said: String,
}

pub(super) fn configured(machine: &Machine, option: &str) -> Configured {
    let release = machine.release();
    // The running kernel's own configuration comes first.
    let own = machine.probes.config.clone().map(|text| (OWN_CONFIG.to_owned(), text));
    let others =
        [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")].into_iter();
    let found = own.or_else(|| {
        others.map(|file| (machine.read(&file), file)).find_map(|(text, file)| Some((file, text?)))
    });
    let Some((file, text)) = found else { return Configured { set: None, said: String::new() } };
    let given = format!("{option}=");
    let line = text.lines().find(|line| line.starts_with(&given));
    let set = match line.map(|line| &line[given.len()..]) {
        Some("y") => Set::BuiltIn,
        Some("m") => Set::Module,
        _ => Set::No,
    };
    let said = match line {
        Some(line) => format!("; {file} says {line}"),
        None => format!("; {option} is not set in {file}"),
    };
    Configured { set: Some(set), said }
}

/// The source of a module by the lists of modules or, where they do not name it, by the configuration.
pub(super) fn source(machine: &Machine, module: &str, option: &str) -> Source {
    match machine.source(module) {
        Source::Missing | Source::Unknown
            if configured(machine, option).set == Some(Set::BuiltIn) =>
        {
            Source::BuiltIn
        }
        source => source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tree;

    #[test]
    fn a_version_decides_on_the_transports_that_fit() {
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
    fn a_kernel_without_vsock_differs_from_one_that_has_not_loaded_it() {
        let without = || Tree::new("6.1.0").probe(|probes| probes.socket = Err(libc::EAFNOSUPPORT));
        for (tree, part) in [
            (without().loadable(&["vsock"]), "\"modprobe vhost_vsock\""),
            (without().loadable(&["loop"]), "linux-modules-extra-6.1.0"),
            (
                without().file("/lib/modules/6.2.0/modules.dep", ""),
                "those of 6.2.0 are there: reboot",
            ),
            (without().docker(), "container (docker)"),
            (
                without().loadable(&["vsock"]).file("/etc/modprobe.d/x.conf", "blacklist vsock"),
                "out of /etc/modprobe.d/x.conf",
            ),
        ] {
            let found = tree.finding(check, "vsock");
            assert_eq!(found.verdict, Verdict::Fault);
            assert!(found.hint.unwrap().to_string().contains(part), "{part}");
        }
        let configured = without().file("/boot/config-6.1.0", "# CONFIG_VSOCKETS is not set\n");
        let found = configured.finding(check, "vsock");
        let said = "CONFIG_VSOCKETS is not set in /boot/config-6.1.0";
        assert!(found.evidence.ends_with(said), "{found:?}");
        assert!(found.hint.unwrap().to_string().contains("no package adds it"));
        let known = without().file("/proc/net/protocols", "protocol size\nAF_VSOCK 1240 0\n");
        assert_eq!(known.finding(check, "vsock").verdict, Verdict::Ok);
    }

    #[test]
    fn the_running_kernels_own_configuration_comes_first() {
        let tree = Tree::new("6.1.0")
            .config("CONFIG_VSOCKETS=y\n# CONFIG_VHOST_VSOCK is not set\n")
            .file("/boot/config-6.1.0", "CONFIG_VHOST_VSOCK=m\n");
        let machine = tree.machine();
        let vhost = configured(&machine, VHOST_VSOCK);
        assert_eq!(vhost.set, Some(Set::No));
        assert_eq!(vhost.said, "; CONFIG_VHOST_VSOCK is not set in /proc/config.gz");
        assert_eq!(configured(&machine, VSOCKETS).said, "; /proc/config.gz says CONFIG_VSOCKETS=y");
        assert_eq!(source(&machine, "vsock", VSOCKETS), Source::BuiltIn);
        assert_eq!(source(&machine, "vhost_vsock", VHOST_VSOCK), Source::Unknown);
        let none = Tree::new("6.1.0");
        assert_eq!(configured(&none.machine(), VHOST_VSOCK).set, None);
    }
}
