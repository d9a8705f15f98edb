//! Which vsock transports the kernel has, and whether one of them keeps vhost_vsock out.
//!
//! Before Linux 5.5 the kernel has one transport at a time. Since 5.5 it has a place for a host's
//! transport and one for a guest's, and since 5.6 one for loopback. The host's place is taken by
//! vhost_vsock, or by VMCI once a hypervisor of VMware has run here. hv_sock is a guest's transport, so
//! neither it nor loopback keeps vhost_vsock out. Only before 5.5 hv_sock can have the one place; then
//! the kernel has to change, since hv_sock is this guest's only way to its own host.

use vsock_cid::Cid;

use super::{
    kernel::{self, SIDE_BY_SIDE},
    loading,
};
use crate::{
    Finding, Verdict,
    devices::devices,
    hint::{Hint, Step},
    machine::Machine,
    modules::{HYPERV, Module, Source, VIRTIO, VMCI},
};

/// The transports that keep any other out before Linux 5.5.
const ALONE: &[&str] = &[VMCI, VIRTIO, HYPERV];

/// The vendor and the id of a PCI device that guests of VMware have.
const VMCI_DEVICE: (u32, u32) = (0x15ad, 0x0740);

/// Which transport has the host's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// None, or vhost_vsock.
    Free,
    /// This module, with the proof.
    Taken(Module, String),
    /// This module perhaps, with the reason why there is no proof.
    Unsettled(Module, String),
}

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let mut findings = vec![conflict(machine), own_cid(machine)];
    if machine.version().is_none_or(|version| version >= (5, 6)) {
        findings.push(loopback(machine));
    }
    findings
}

fn alone(machine: &Machine) -> bool {
    machine.version().is_some_and(|version| version < SIDE_BY_SIDE)
}

/// Whether opening /dev/vhost-vsock failed in the way of a module that could not be loaded.
fn kept_from_loading(machine: &Machine) -> bool {
    matches!(machine.probes.vhost, Err(libc::ENODEV | libc::ENXIO | libc::ENOENT))
        && machine.module("vhost_vsock").is_none()
}

pub(super) fn place(machine: &Machine) -> Place {
    if !kept_from_loading(machine) {
        return Place::Free;
    }
    if alone(machine) {
        let module = ALONE.iter().find_map(|name| machine.module(name));
        return module.map_or(Place::Free, |module| {
            let why = told(machine, &module);
            Place::Taken(module, why)
        });
    }
    let Some(vmci) = machine.module(VMCI) else { return Place::Free };
    let seen = told(machine, &vmci);
    // Without vhost_vsock this machine has CID 2 only where VMCI is the host's transport.
    if machine.probes.cid == Ok(Cid::HOST) {
        return Place::Taken(vmci, format!("{seen}; this machine is CID 2 already"));
    }
    if let Some(process) = hypervisor(machine) {
        return Place::Taken(vmci, format!("{seen}; {process} is its hypervisor"));
    }
    // With VMCI in the host's place this machine has CID 2, unless it has a guest's CID, which hides it.
    let guest = guest_by(machine);
    match (machine.probes.cid, guest) {
        (Ok(_), None) => Place::Free,
        (Err(_), None) => {
            let why = "/dev/vsock does not tell this machine's CID";
            Place::Unsettled(vmci, format!("{VMCI} may have the host's place: {seen}, and {why}"))
        }
        (_, Some(guest)) => Place::Unsettled(
            vmci,
            format!(
                "{VMCI} may have the host's place: {seen}, and {guest}, whose CID hides the host's"
            ),
        ),
    }
}

/// The evidence that this machine is a guest with a CID of its own.
fn guest_by(machine: &Machine) -> Option<String> {
    if vmware_guest(machine) {
        return Some("this machine is a guest of VMware".into());
    }
    if let Some(module) = [VIRTIO, HYPERV].iter().find_map(|name| machine.module(name)) {
        return Some(format!("{} is loaded", module.name));
    }
    let built = kernel::source(machine, VIRTIO, "CONFIG_VIRTIO_VSOCKETS") == Source::BuiltIn;
    built.then(|| format!("{VIRTIO} is built into this kernel"))
}

fn vmware_guest(machine: &Machine) -> bool {
    devices(machine, "pci").iter().any(|device| device.vendor.zip(device.kind) == Some(VMCI_DEVICE))
}

/// A transport with its users, as evidence.
fn told(machine: &Machine, module: &Module) -> String {
    let users = match module.users {
        Some(users) => format!("{} is loaded, with {users} users", module.name),
        None => format!("{} is loaded for good", module.name),
    };
    let holders = holders(machine, module);
    if holders.is_empty() { users } else { format!("{users}: {}", holders.join(", ")) }
}

fn conflict(machine: &Machine) -> Finding {
    let checked = "the vsock transports beside vhost_vsock";
    let names: Vec<_> = machine
        .modules()
        .into_iter()
        .map(|module| module.name)
        .filter(|name| ALONE.contains(&name.as_str()) || name == "vsock_loopback")
        .collect();
    let loaded = if names.is_empty() { "none is loaded".into() } else { names.join(", ") };
    let finding = |verdict, evidence| Finding::new("transport", verdict, checked, evidence);
    match place(machine) {
        Place::Free => {
            let meaning = match (names.iter().any(|name| name == VMCI), alone(machine)) {
                (true, false) => {
                    "VMCI is loaded, but not in the host's place: vhost_vsock is not kept out by it"
                }
                (_, true) => "none of them keeps vhost_vsock out now",
                (false, false) => "nothing keeps vhost_vsock out",
            };
            finding(Verdict::Ok, loaded).meaning(meaning)
        }
        Place::Taken(module, why) => finding(Verdict::Fault, why)
            .meaning(meaning(machine, &module))
            .hint(unload(machine, &module)),
        // The known reason comes first. Loading the module by name would bypass a ban.
        Place::Unsettled(_, why) if known(machine) => finding(Verdict::Ok, why)
            .meaning("this shows once nothing else keeps vhost_vsock out: see the finding above"),
        Place::Unsettled(_, why) => finding(Verdict::Warning, why)
            .meaning(
                "where a VM of VMware was started here, VMCI is the host's transport and keeps \
                 vhost_vsock out; else it does not",
            )
            .hint(loading::unsettled()),
    }
}

/// Whether something else is known to keep vhost_vsock out.
fn known(machine: &Machine) -> bool {
    machine.kept_out("vhost_vsock").is_some()
        || !loading::obstacles(machine).is_empty()
        || loading::logged(machine).is_some()
}

/// What follows where `module` has the place of vhost_vsock.
pub(super) fn meaning(machine: &Machine, module: &Module) -> String {
    if module.name == HYPERV {
        format!(
            "this kernel is older than Linux 5.5 and has room for one transport: this guest's own \
             ({HYPERV}, its way to Hyper-V) is in it, as it should be"
        )
    } else if alone(machine) {
        format!("before Linux 5.5 there is one transport at a time, and {} is it", module.name)
    } else {
        "VMCI is this host's vsock transport, for guests of VMware; vhost_vsock, for those of QEMU, \
         cannot be loaded beside it"
            .into()
    }
}

/// How to free the place of a transport.
pub(super) fn unload(machine: &Machine, blocker: &Module) -> Hint {
    const NEWER: &str = "boot Linux 5.5 or later, where a host's and a guest's have a place each";
    let (remove, ban) = match blocker.name.as_str() {
        HYPERV => return Hint::advice(NEWER),
        VMCI => (
            Step::Run(&["modprobe", "-r", VMCI]),
            Step::Write {
                path: "/etc/modprobe.d/no-vsock-vmci.conf",
                line: "blacklist vmw_vsock_vmci_transport",
            },
        ),
        _ => (
            Step::Run(&["modprobe", "-r", VIRTIO]),
            Step::Write {
                path: "/etc/modprobe.d/no-vsock-virtio.conf",
                line: "blacklist vmw_vsock_virtio_transport",
            },
        ),
    };
    let load = Step::Run(&["modprobe", "vhost_vsock"]);
    if let Some(ban) = machine.kept_out("vhost_vsock") {
        return Hint::unsafe_steps(format!("and {}", ban.lifted()), vec![remove]);
    }
    let locked = loading::modules_disabled(machine);
    if blocker.users == Some(0)
        && !locked
        && let Some(process) = hypervisor(machine).filter(|_| blocker.name == VMCI)
    {
        return Hint::unsafe_steps(
            format!("once the VMs of VMware have ended, which lose their vsock by it: {process}"),
            vec![remove, load],
        );
    }
    if blocker.users == Some(0) && !locked {
        let again = format!("should it come back at the next start, \"{ban}\" keeps it out");
        // A guest's transport is its way to its own host, even while nothing uses it.
        return if blocker.name == VIRTIO || vmware_guest(machine) {
            let newer = if alone(machine) { format!("; or {NEWER}") } else { String::new() };
            Hint::unsafe_steps(
                format!(
                    "this machine is a guest itself, and loses its way to its host; {again}{newer}"
                ),
                vec![remove, load],
            )
        } else {
            Hint::safe(vec![remove, load]).and(again)
        };
    }
    if locked {
        return Hint::unsafe_steps(
            "and reboot: this machine unloads no module any more (kernel.modules_disabled)",
            vec![ban, kernel::AT_START],
        );
    }
    let holders = holders(machine, blocker);
    let stop = if holders.is_empty() {
        "it is in use and cannot be unloaded".to_owned()
    } else {
        format!("it is in use by {}, and cannot be unloaded before that ends", holders.join(", "))
    };
    let tools = holders.iter().any(|holder| holder.contains("open-vm-tools"));
    let first = if tools { "'systemctl stop open-vm-tools' (or vmtoolsd), then " } else { "" };
    Hint::unsafe_steps(
        format!(
            "and reboot: {stop} ({first}\"{remove}\" and \"{load}\" would do without a reboot)"
        ),
        vec![ban],
    )
}

/// The modules that depend on it, and the processes that are known to use it.
fn holders(machine: &Machine, module: &Module) -> Vec<String> {
    let mut holders: Vec<_> = module.by.iter().map(|name| format!("the module {name}")).collect();
    if module.name == VMCI {
        // A hypervisor uses it even where the kernel does not count it as a user.
        let held = |runs: bool| runs || module.users != Some(0);
        let processes = processes(machine).into_iter().filter(|(_, runs)| held(*runs));
        holders.extend(processes.map(|(name, _)| name));
    }
    holders
}

/// The process of VMware's hypervisor, which makes VMCI the host's transport.
fn hypervisor(machine: &Machine) -> Option<String> {
    let found = processes(machine).into_iter().find(|(_, runs)| *runs);
    found.map(|(name, _)| name)
}

/// The processes that use VMCI, and whether each runs a VM.
fn processes(machine: &Machine) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for process in machine.list("/proc") {
        if !process.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let name = machine.value(&format!("/proc/{process}/comm")).unwrap_or_default();
        let fds = format!("/proc/{process}/fd");
        let open = || {
            let fds = machine.list(&fds).into_iter();
            let mut links = fds.filter_map(|fd| machine.link(&format!("/proc/{process}/fd/{fd}")));
            links.any(|to| to == "/dev/vmci")
        };
        if matches!(name.as_str(), "vmtoolsd" | "VGAuthService" | "vmware-vmblock-") {
            found.push((format!("{name} of open-vm-tools (process {process})"), false));
        } else if name == "vmware-vmx" || open() {
            found.push((format!("{name} (process {process})"), true));
        }
    }
    found
}

fn own_cid(machine: &Machine) -> Finding {
    let checked = "this machine's own CID";
    let finding = |evidence: String| Finding::new("cid", Verdict::Ok, checked, evidence);
    match machine.probes.cid {
        Err(_) => finding("/dev/vsock does not open here, which would tell".into())
            .meaning("guests reach this host as CID 2; what its own host knows it as is not seen"),
        Ok(Cid::ANY) => finding("it has none".into())
            .meaning("no transport is loaded yet; guests will reach this host as CID 2"),
        Ok(Cid::LOCAL) => finding("1".into())
            .meaning("only vsock_loopback is loaded yet; guests will reach this host as CID 2"),
        Ok(Cid::HOST) => {
            finding("2".into()).meaning("a host: its guests reach it as CID 2")
        }
        Ok(cid) => finding(cid.to_string()).meaning(format!(
            "this host is a guest itself: its own host knows it as CID {cid}, its guests reach it as \
             CID 2; a listener on every CID also hears its own host"
        )),
    }
}

fn loopback(machine: &Machine) -> Finding {
    let loaded = machine.module("vsock_loopback").is_some();
    let evidence = if loaded { "vsock_loopback is loaded" } else { "vsock_loopback is not loaded" };
    Finding::new("loopback", Verdict::Ok, "vsock from this machine to itself", evidence).meaning(
        if loaded {
            "programs of this machine reach the agent as CID 1; guests have no need of it"
        } else {
            "guests have no need of it; for a try without a guest, 'modprobe vsock_loopback' and CID 1"
        },
    )
}

#[cfg(test)]
mod tests;
