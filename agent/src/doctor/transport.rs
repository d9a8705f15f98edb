//! Which vsock transports the kernel has, and whether one of them keeps vhost_vsock out.
//!
//! Before Linux 5.5 there is one transport at a time. From 5.5 on there is a place for the host's,
//! one for the guest's and (5.6) one for loopback; the host's is vhost_vsock's, and VMCI's when a
//! VMware hypervisor runs here. hv_sock is for guests and loopback for neither: neither is to blame
//! from then on.

use super::{
    Finding, Machine, Verdict,
    kernel::SIDE_BY_SIDE,
    machine::{Module, Source},
    mend::{Mend, Step},
};

const VMCI: &str = "vmw_vsock_vmci_transport";

/// The transports that are alone, where there is one at a time.
const ALONE: &[&str] = &[VMCI, "vmw_vsock_virtio_transport", "hv_sock"];

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

/// Opening /dev/vhost-vsock failed as it does where the module could not be loaded.
fn kept_from_loading(machine: &Machine) -> bool {
    matches!(machine.probes.vhost, Err(libc::ENODEV | libc::ENXIO | libc::ENOENT))
        && machine.module("vhost_vsock").is_none()
}

/// The transport that has vhost_vsock's place.
pub(super) fn blocker(machine: &Machine) -> Option<Module> {
    if !kept_from_loading(machine) {
        return None;
    }
    if alone(machine) {
        return ALONE.iter().find_map(|name| machine.module(name));
    }
    let vmci = machine.module(VMCI)?;
    // This machine is CID 2 without vhost_vsock: then it is the host by VMCI.
    let host = machine.probes.cid == Some(libc::VMADDR_CID_HOST);
    // Or the node is there, its module too, and the module does not load: nothing else does that.
    let refused = machine.probes.vhost == Err(libc::ENODEV)
        && machine.source("vhost_vsock") == Source::File
        && machine.kept_out("vhost_vsock").is_none();
    (host || refused).then_some(vmci)
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
    let Some(blocker) = blocker(machine) else {
        let meaning = match (names.iter().any(|name| name == VMCI), alone(machine)) {
            (true, false) => {
                "VMCI is loaded, but not in the host's place: vhost_vsock is not kept out by it"
            }
            (_, true) => "none of them keeps vhost_vsock out now",
            (false, false) => "nothing keeps vhost_vsock out",
        };
        return finding(Verdict::Ok, loaded).meaning(meaning);
    };
    let users = match blocker.users {
        Some(users) => format!("{} is loaded, with {users} users", blocker.name),
        None => format!("{} is loaded for good", blocker.name),
    };
    let holders = holders(machine, &blocker);
    let held = if holders.is_empty() { String::new() } else { format!(": {}", holders.join(", ")) };
    let cid = match machine.probes.cid {
        Some(libc::VMADDR_CID_HOST) => "; this machine is CID 2 already",
        _ => "",
    };
    let meaning = if alone(machine) {
        format!("before Linux 5.5 there is one transport at a time, and {} is it", blocker.name)
    } else {
        "VMCI is this host's vsock transport, for guests of VMware; vhost_vsock, for those of QEMU, \
         cannot be loaded beside it"
            .into()
    };
    let mend = unload(machine, &blocker);
    finding(Verdict::Fault, format!("{users}{held}{cid}")).meaning(meaning).mend(mend)
}

/// How that transport makes place.
pub(super) fn unload(machine: &Machine, blocker: &Module) -> Mend {
    let (remove, ban) = match blocker.name.as_str() {
        VMCI => (
            Step::Run(&["modprobe", "-r", VMCI]),
            Step::Write {
                path: "/etc/modprobe.d/no-vsock-vmci.conf",
                line: "blacklist vmw_vsock_vmci_transport",
            },
        ),
        "hv_sock" => (
            Step::Run(&["modprobe", "-r", "hv_sock"]),
            Step::Write { path: "/etc/modprobe.d/no-hv-sock.conf", line: "blacklist hv_sock" },
        ),
        _ => (
            Step::Run(&["modprobe", "-r", "vmw_vsock_virtio_transport"]),
            Step::Write {
                path: "/etc/modprobe.d/no-vsock-virtio.conf",
                line: "blacklist vmw_vsock_virtio_transport",
            },
        ),
    };
    let load = Step::Run(&["modprobe", "vhost_vsock"]);
    if blocker.users == Some(0) {
        let again = format!("should it come back at the next start, \"{ban}\" keeps it out");
        // A guest's transport is its way to its own host, though nothing may use it just now.
        return if blocker.name == VMCI {
            Mend::safe(vec![remove, load]).and(again)
        } else {
            Mend::unsafe_steps(
                format!("this machine is a guest itself, and loses its way to its host; {again}"),
                vec![remove, load],
            )
        };
    }
    let holders = holders(machine, blocker);
    let stop = if holders.is_empty() {
        "it is in use and cannot be unloaded".to_owned()
    } else {
        format!("it is in use by {}, and cannot be unloaded before that ends", holders.join(", "))
    };
    let tools = holders.iter().any(|holder| holder.contains("open-vm-tools"));
    let first = if tools { "'systemctl stop open-vm-tools' (or vmtoolsd), then " } else { "" };
    Mend::unsafe_steps(
        format!(
            "and reboot: {stop} ({first}\"{remove}\" and \"{load}\" would do without a reboot)"
        ),
        vec![ban],
    )
}

/// The modules above it, and the processes that are known to use it.
fn holders(machine: &Machine, module: &Module) -> Vec<String> {
    let mut holders: Vec<_> = module.by.iter().map(|name| format!("the module {name}")).collect();
    if module.name != VMCI || module.users == Some(0) {
        return holders;
    }
    for process in machine.list("/proc") {
        if !process.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let name = machine.value(&format!("/proc/{process}/comm")).unwrap_or_default();
        let tools = matches!(name.as_str(), "vmtoolsd" | "VGAuthService" | "vmware-vmblock-");
        let fds = format!("/proc/{process}/fd");
        let open = machine
            .list(&fds)
            .iter()
            .any(|fd| machine.link(&format!("{fds}/{fd}")).is_some_and(|to| to == "/dev/vmci"));
        if tools {
            holders.push(format!("{name} of open-vm-tools (process {process})"));
        } else if open || name == "vmware-vmx" {
            holders.push(format!("{name} (process {process})"));
        }
    }
    holders
}

fn own_cid(machine: &Machine) -> Finding {
    let checked = "this machine's own CID";
    let finding = |evidence: String| Finding::new("cid", Verdict::Ok, checked, evidence);
    match machine.probes.cid {
        None | Some(u32::MAX) => finding("it has none".into())
            .meaning("no transport is loaded yet; guests will reach this host as CID 2"),
        Some(libc::VMADDR_CID_LOCAL) => finding("1".into())
            .meaning("only vsock_loopback is loaded yet; guests will reach this host as CID 2"),
        Some(libc::VMADDR_CID_HOST) => {
            finding("2".into()).meaning("a host: its guests reach it as CID 2")
        }
        Some(cid) => finding(cid.to_string()).meaning(format!(
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
