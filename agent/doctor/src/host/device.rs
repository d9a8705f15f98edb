//! /dev/vhost-vsock, which QEMU opens to give its guest a CID.

use super::{
    container::{Container, container},
    kernel::{self, Set, VHOST_VSOCK},
    loading::{self, Obstacle},
    transport::{self, Place},
    unit,
};
use crate::{
    Finding, Verdict,
    hint::{Hint, Step},
    machine::Machine,
    modules::Source,
    probes::{Node, Probes},
    run::Run,
    service::Own,
};

const CHECKED: &str = "opening /dev/vhost-vsock, as QEMU does";

/// The alternative to every fix of the device.
const WITHOUT: &str = "do without the device: 'agent --listen vhost-user:PATH' is the vsock device \
                       of a QEMU guest itself (no module, no root), and hybrid:PATH is for \
                       Firecracker and Cloud Hypervisor";

const RULE: Step = Step::Write {
    path: "/etc/udev/rules.d/99-vhost-vsock.rules",
    line: r#"KERNEL=="vhost-vsock", GROUP="kvm", MODE="0660", OPTIONS+="static_node=vhost-vsock""#,
};

/// The rule where there is no group kvm.
const RULE_OF_ROOT: Step = Step::Write {
    path: "/etc/udev/rules.d/99-vhost-vsock.rules",
    line: r#"KERNEL=="vhost-vsock", MODE="0660", OPTIONS+="static_node=vhost-vsock""#,
};

const GROUP: Step = Step::Run(&["chgrp", "kvm", "/dev/vhost-vsock"]);
const MODE: Step = Step::Run(&["chmod", "0660", "/dev/vhost-vsock"]);

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
                .hint(Hint::advice("the kernel's log ('dmesg') may say more"))
        }
    }];
    for fault in findings.iter_mut().filter(|finding| finding.verdict == Verdict::Fault) {
        fault.hint = fault.hint.take().map(|hint| hint.or(WITHOUT));
    }
    findings.extend(node.and_then(|node| open_to_all(machine, node)));
    findings
}

/// How to fix a `/dev/vhost-vsock` that failed to open with `errno`: the hint that `agent doctor` prints.
/// `run` runs the programs that are asked. `None` where no hint is known.
pub fn hint_of_device(errno: i32, run: &dyn Run) -> Option<String> {
    hint_on(&Machine::here(Probes::of_device(Err(errno), run)))
}

fn hint_on(machine: &Machine) -> Option<String> {
    let Finding { meaning, hint, .. } = check(machine).into_iter().next()?;
    Some(format!("{meaning}: {}; 'agent doctor' says more", hint?))
}

fn missing(machine: &Machine) -> Finding {
    if let Some((own, why)) = unit(machine).filter(|(_, why)| why == PRIVATE) {
        return in_service(machine, &own, "there is no /dev/vhost-vsock in its own /dev", &why);
    }
    if machine.module("vhost_vsock").is_none() && container(machine).is_none() {
        return not_loaded(machine, "there is no /dev/vhost-vsock");
    }
    let finding = |evidence: &str| Finding::new("vhost-vsock", Verdict::Fault, CHECKED, evidence);
    if let Some(Container { kind, evidence: proof }) = container(machine) {
        let meaning = if machine.has("/sys/class/misc/vhost-vsock") {
            format!("this is a container ({kind}) that was not given the device")
        } else {
            format!(
                "this is a container ({kind}), and vhost_vsock is not loaded on its host either"
            )
        };
        return finding(&format!("there is no /dev/vhost-vsock; {proof}")).meaning(meaning).hint(
            Hint::advice(
                "run 'agent doctor' on its host, then start it with the device (docker and podman: \
             '--device /dev/vhost-vsock'); or run QEMU on the host",
            ),
        );
    }
    finding("the module vhost_vsock is loaded, and there is no /dev/vhost-vsock")
        .meaning("the node was removed, or udev and devtmpfs do not run here")
        .hint(Hint::advice(
            "make it: 'mknod -m 660 /dev/vhost-vsock c $(tr : \" \" < \
             /sys/class/misc/vhost-vsock/dev) && chgrp kvm /dev/vhost-vsock'",
        ))
}

/// The finding in a service that is kept from the device. In the agent's own service this is right:
/// QEMU needs the device, and runs outside.
fn in_service(machine: &Machine, own: &Own, seen: &str, why: &str) -> Finding {
    let name = &own.name;
    let finding = |verdict| {
        Finding::new("vhost-vsock", verdict, CHECKED, format!("{seen}: {name} has {why}"))
    };
    let edit = unit::edit(own.systemctl(), name, unit::DEVICE);
    if !own.is_agents() {
        return finding(Verdict::Fault).meaning(IN_SERVICE).hint(edit);
    }
    if machine.has("/sys/class/misc/vhost-vsock") {
        return finding(Verdict::Ok)
            .meaning("the module is loaded, and the machine's own device is QEMU's to open");
    }
    finding(Verdict::Warning)
        .meaning("whether QEMU may open the machine's own device cannot be seen from here")
        .hint(Hint::advice(format!(
            "run 'agent doctor' outside {name}, as the user who starts QEMU; only for --qmp: {}",
            edit.advice
        )))
}

const IN_SERVICE: &str =
    "a QEMU in this service gets no CID; an agent in it can serve, but not give CIDs (--qmp)";

/// The service that this process is in and the setting that keeps the device from it, if one does.
fn unit(machine: &Machine) -> Option<(Own, String)> {
    if let Some((own, unit)) = unit::own_shown(machine) {
        return Some((own, unit.forbids_device()?));
    }
    // A service may be kept from the bus too. Its /dev shows it then: the machine's /dev is a devtmpfs.
    let own = unit::own(machine).filter(|_| container(machine).is_none())?;
    let mounts = machine.read("/proc/self/mountinfo")?;
    let dev = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/dev"))?;
    dev.contains(" - tmpfs ").then(|| (own, PRIVATE.to_owned()))
}

const PRIVATE: &str = "PrivateDevices=yes";

/// The finding where the module is not loaded. The reason decides on the hint.
fn not_loaded(machine: &Machine, seen: &str) -> Finding {
    let finding = |evidence: String| Finding::new("vhost-vsock", Verdict::Fault, CHECKED, evidence);
    if let Some(ban) = machine.kept_out("vhost_vsock") {
        return finding(format!("{seen}; {} keeps the module vhost_vsock out", ban.by))
            .meaning("an administrator has forbidden the module")
            .hint(Hint::advice(ban.lifted()));
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
            .hint(Hint::advice(kernel::missing(machine, VHOST_VSOCK)));
    }
    let place = transport::place(machine);
    let mut evidence = vec![seen.to_owned()];
    let obstacles = if source == Source::File { loading::obstacles(machine) } else { Vec::new() };
    evidence.extend(obstacles.iter().map(|obstacle| obstacle.evidence.clone()));
    if let Some(Obstacle { meaning, hint, .. }) = obstacles.into_iter().next() {
        if let Place::Taken(module, _) = &place {
            evidence.push(format!("and {} has its place", module.name));
        }
        return finding(evidence.join("; ")).meaning(meaning).hint(hint);
    }
    if let Place::Taken(module, why) = &place {
        return finding(format!("{seen}; {why}"))
            .meaning(transport::meaning(machine, module))
            .hint(transport::unload(machine, module));
    }
    match source {
        Source::Unknown => finding(format!(
            "{seen}; there is no list of modules for this kernel{}",
            configured.said
        ))
        .meaning("this kernel was built without vhost_vsock, or its modules are not installed")
        .hint(Hint::advice(kernel::missing(machine, VHOST_VSOCK))),
        Source::BuiltIn => finding(format!("{seen}; vhost_vsock is built into this kernel"))
            .meaning("it could not start when the kernel did")
            .hint(Hint::advice("look for vhost_vsock and vsock in the kernel's log ('dmesg')")),
        Source::File | Source::Missing => {
            if let Some(Obstacle { evidence: why, meaning, hint }) = loading::logged(machine) {
                return finding(format!("{seen}; {why}")).meaning(meaning).hint(hint);
            }
            evidence.push("vhost_vsock is not loaded".into());
            let perhaps = match place {
                Place::Unsettled(_, why) => Some(why),
                _ => None,
            };
            let suspects: Vec<_> = loading::suspects(machine).into_iter().chain(perhaps).collect();
            let suspected = !suspects.is_empty();
            evidence.extend(suspects);
            let (meaning, hint) = if machine.probes.vhost != Err(libc::ENOENT) {
                let tried = "the kernel has tried to load the module and failed; what is to be seen \
                             from here does not settle why";
                (tried, loading::unsettled())
            } else if suspected {
                let untried = "nothing has loaded the module, and this does not settle whether it \
                               would load";
                (untried, loading::unsettled())
            } else {
                ("the module is there and nothing has loaded it", kernel::load())
            };
            finding(evidence.join("; ")).meaning(meaning).hint(hint)
        }
    }
}

fn forbidden(machine: &Machine, node: Option<&Node>) -> Finding {
    let user = &machine.probes.user;
    // A file mode refuses with EACCES, a device rule of a control group with EPERM.
    if machine.probes.vhost == Err(libc::EPERM)
        && let Some((own, why)) = unit(machine)
    {
        return in_service(machine, &own, "it fails with EPERM", &why);
    }
    let Some(Node { mode, owner, group }) = node else {
        return Finding::new("vhost-vsock", Verdict::Fault, CHECKED, "it is forbidden")
            .meaning("a directory above it, a container or a security module forbids it")
            .hint(Hint::advice("see the findings below, or run 'agent doctor' on the host"));
    };
    let evidence = format!("{user} may not: its mode is {mode:04o}, its owner {owner}:{group}");
    let finding = Finding::new("vhost-vsock", Verdict::Fault, CHECKED, evidence);
    if user == "root" {
        return finding
            .meaning("root is refused by a container's device rules or by a security module")
            .hint(Hint::advice(
                "give the container the device ('--device /dev/vhost-vsock', systemd: \
                 'DeviceAllow=/dev/vhost-vsock rw'), or see the denials below",
            ));
    }
    if mode & 0o060 == 0o060 && group != "root" {
        let own = unit::own(machine);
        let groups = |own: &Own| {
            let lines = format!("SupplementaryGroups={group}");
            unit::edit(own.systemctl(), &own.name, &lines).advice
        };
        if let Some(own) = own.as_ref().filter(|own| own.is_agents()) {
            return Finding { verdict: Verdict::Warning, ..finding }
                .meaning(format!("{} serves, but cannot give guests CIDs (--qmp)", own.name))
                .hint(Hint::advice(groups(own)));
        }
        if listed(machine, group, user) {
            return finding
                .meaning(format!("{user} is in the group {group}, and this login is from before"))
                .hint(Hint::advice(format!("log in anew, or 'newgrp {group}' in this shell")));
        }
        let inside =
            own.map_or_else(String::new, |own| format!("; or for this service: {}", groups(&own)));
        return finding
            .meaning(format!("QEMU of this user gets no CID; those in the group {group} do"))
            .hint(Hint::advice(format!(
                "'usermod -aG {group} {user}' as root, then log in anew; or let libvirt start the \
                 guest, which opens the device itself{inside}"
            )));
    }
    // The steps give more users access, which an administrator has to decide.
    finding.meaning("only root may give guests CIDs").hint(Hint::unsafe_steps(
        format!("then 'usermod -aG kvm {user}' and a new login"),
        vec![RULE, GROUP, MODE],
    ))
}

/// Whether /etc/group lists the user in the group, though this process may not have it yet.
fn listed(machine: &Machine, group: &str, user: &str) -> bool {
    machine.read("/etc/group").is_some_and(|text| {
        text.lines().any(|line| {
            let fields: Vec<_> = line.split(':').collect();
            matches!(fields[..], [name, _, _, members]
                if name == group && members.split(',').any(|member| member == user))
        })
    })
}

/// The finding where every user may open the device, as the rules of some distributions have it.
fn open_to_all(machine: &Machine, node: &Node) -> Option<Finding> {
    let Node { mode, owner, group } = node;
    if mode & 0o006 == 0 {
        return None;
    }
    let by = rule(machine).map_or_else(String::new, |file| format!(", by {file}"));
    let evidence = format!("{mode:04o}, {owner}:{group}{by}");
    let kvm = machine
        .read("/etc/group")
        .is_some_and(|text| text.lines().any(|line| line.starts_with("kvm:")));
    let (steps, from_then_on) = match (kvm, group.as_str()) {
        (true, "kvm") => (vec![MODE, RULE], IN_KVM),
        (true, _) => (vec![GROUP, MODE, RULE], IN_KVM),
        (false, _) => (vec![MODE, RULE_OF_ROOT], "only root starts guests from then on"),
    };
    let finding = Finding::new(
        "vhost-vsock-mode",
        Verdict::Warning,
        "the mode of /dev/vhost-vsock",
        evidence,
    );
    Some(
        finding
            .meaning(
                "every user of this machine can start a guest with any free CID, so a CID says \
                 nothing about who asks (--allow-cid)",
            )
            .hint(Hint::safe(steps).and(from_then_on)),
    )
}

const IN_KVM: &str = "users who start guests must be in the group kvm from then on ('usermod -aG kvm \
                      USER'); the rule keeps it so at the next start";

/// The file with the udev rule that opens the device to all.
fn rule(machine: &Machine) -> Option<String> {
    let directories =
        ["/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"];
    let opens = |line: &str| {
        let line = line.replace(' ', "");
        !line.starts_with('#')
            && line.contains("\"vhost-vsock\"")
            && (line.contains("MODE=\"0666\"") || line.contains("MODE:=\"0666\""))
    };
    let mut files = machine.paths_in(&directories).into_iter();
    files.find(|path| machine.read(path).is_some_and(|text| text.lines().any(opens)))
}

#[cfg(test)]
mod tests;
