//! The checks of a guest: why vsock does not work in it, and how to fix it. `guest-tools probe` prints
//! what they find. They change nothing.

use nix::errno::Errno;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vsock_cid::Cid;

use crate::{
    Finding, Verdict,
    devices::{Device, VIRTIO_VENDOR, devices},
    machine::Machine,
    modules::{HYPERV, Source, VIRTIO, VMCI},
    probes::Probes,
};

/// The PCI ids of a virtio vsock device: transitional and modern.
const PCI_VSOCK: [u32; 2] = [0x1012, 0x1040 + VIRTIO_ID_VSOCK];

/// The transports that a kernel may have, and what they are for.
const TRANSPORTS: [(&str, &str); 5] = [
    (VIRTIO, "a guest's way to its host, over virtio"),
    (VMCI, "a guest's way to its host, of VMware"),
    (HYPERV, "a guest's way to its host, of Hyper-V"),
    ("vhost_vsock", "a host's way to its guests"),
    ("vsock_loopback", "from this machine to itself"),
];

/// Checks this machine. An earlier finding may explain a later one. Makes a vsock socket for a moment,
/// for which the kernel may load its vsock modules.
pub fn examine() -> Vec<Finding> {
    findings(&Machine::here(Probes::of_guest()))
}

fn findings(machine: &Machine) -> Vec<Finding> {
    [device, driver, socket, node, cid, transports].map(|check| check(machine)).into()
}

/// The virtio vsock devices on the virtio bus.
fn vsock_devices(machine: &Machine) -> Vec<Device> {
    let devices = devices(machine, "virtio").into_iter();
    devices.filter(|device| device.kind == Some(VIRTIO_ID_VSOCK)).collect()
}

/// The device that the host gives to the guest.
fn device(machine: &Machine) -> Finding {
    let finding = |verdict, evidence: String| Finding::bare("device", verdict, evidence);
    let vsock = vsock_devices(machine);
    let driven = vsock.iter().find_map(|device| {
        device.driver.as_ref().map(|driver| format!("{} is driven by {driver}", device.name))
    });
    if let Some(driven) = driven {
        return finding(Verdict::Ok, driven).meaning("this machine has a virtio vsock device");
    }
    if let Some(device) = vsock.first() {
        return finding(Verdict::Fault, format!("{} has no driver", device.name))
            .meaning("the vsock device is there, and nothing in the kernel uses it")
            .hint(load(machine, VIRTIO, "CONFIG_VIRTIO_VSOCKETS"));
    }
    let pci = devices(machine, "pci").into_iter().find(|device| {
        device.vendor == Some(VIRTIO_VENDOR)
            && device.kind.is_some_and(|kind| PCI_VSOCK.contains(&kind))
    });
    if let Some(device) = pci {
        let driver = device.driver.as_deref().unwrap_or("no driver");
        return finding(Verdict::Fault, format!("PCI device {} has {driver}", device.name))
            .meaning("the vsock device is on PCI, and it is not on the virtio bus")
            .hint(load(machine, "virtio_pci", "CONFIG_VIRTIO_PCI"));
    }
    for (module, whose) in [(HYPERV, "Hyper-V"), (VMCI, "VMware")] {
        if machine.in_kernel(module) {
            return finding(Verdict::Ok, format!("no virtio device; {module} is in the kernel"))
                .meaning(format!("{whose} has a vsock of its own, without virtio"));
        }
    }
    if !machine.has("/sys/bus") {
        return finding(Verdict::Warning, "there is no /sys".into())
            .meaning("whether this machine has a vsock device cannot be seen")
            .hint("mount -t sysfs sysfs /sys");
    }
    let evidence =
        format!("none among {} virtio devices, none on PCI", devices(machine, "virtio").len());
    finding(Verdict::Fault, evidence)
        .meaning("the host gives this guest no vsock device; or a container hides it")
        .hint(
            "give the VM one: QEMU's '-device vhost-vsock-pci,guest-cid=N', or libvirt's <vsock \
             model='virtio'><cid auto='yes'/></vsock>; 'agent qemu attach' plugs one into a VM \
             that runs",
        )
}

/// How to load a module into this kernel.
fn load(machine: &Machine, module: &str, option: &str) -> String {
    let release = machine.release();
    match machine.source(module) {
        Source::File => format!(
            "modprobe {module}; for every boot: echo {module} > /etc/modules-load.d/vsock.conf"
        ),
        Source::BuiltIn | Source::Missing => format!(
            "this kernel, {release}, has no module {module}: install the package with its further \
             modules (linux-modules-extra-{release}), or a kernel with {option}"
        ),
        Source::Unknown => format!(
            "modprobe {module}; the modules of this kernel, {release}, are not below /lib/modules: \
             an initramfs needs {module}.ko and what it depends on"
        ),
    }
}

/// The driver of that device.
fn driver(machine: &Machine) -> Finding {
    let finding = |verdict, evidence: String| Finding::bare("driver", verdict, evidence);
    if machine.in_kernel(VIRTIO) {
        return finding(Verdict::Ok, format!("{VIRTIO} is in the kernel"))
            .meaning("the kernel can use a virtio vsock device");
    }
    let vsock = vsock_devices(machine);
    if vsock.iter().any(|device| device.driver.is_some()) {
        return finding(Verdict::Ok, "it is built in".into())
            .meaning("the kernel can use a virtio vsock device");
    }
    // Without a device the driver would not help.
    let verdict = if vsock.is_empty() { Verdict::Warning } else { Verdict::Fault };
    finding(verdict, format!("{VIRTIO} is not loaded"))
        .meaning("the kernel would not use a virtio vsock device")
        .hint(load(machine, VIRTIO, "CONFIG_VIRTIO_VSOCKETS"))
}

/// Whether this process may have vsock sockets.
fn socket(machine: &Machine) -> Finding {
    let finding = |verdict, evidence: String| Finding::bare("socket", verdict, evidence);
    match machine.probes.socket.map_err(Errno::from_raw) {
        Ok(()) => finding(Verdict::Ok, "socket(AF_VSOCK) succeeds".into())
            .meaning("the kernel has vsock sockets, and nothing forbids them here"),
        Err(errno @ (Errno::EPERM | Errno::EACCES)) => {
            finding(Verdict::Fault, format!("socket(AF_VSOCK): {errno}"))
                .meaning("this process may have no vsock sockets: a seccomp or SELinux rule")
                .hint(
                    "a container's seccomp profile can forbid them: allow AF_VSOCK in it; in a \
                     systemd unit: RestrictAddressFamilies=AF_VSOCK AF_UNIX",
                )
        }
        Err(Errno::EAFNOSUPPORT) if !machine.knows_vsock() => {
            finding(Verdict::Fault, "socket(AF_VSOCK): address family not supported".into())
                .meaning("the kernel has no AF_VSOCK")
                .hint(load(machine, VIRTIO, "CONFIG_VSOCKETS"))
        }
        Err(errno) => finding(Verdict::Fault, format!("socket(AF_VSOCK): {errno}"))
            .meaning("the kernel gives no vsock socket to this process")
            .hint("in a container or unit, allow AF_VSOCK; else see the kernel's log"),
    }
}

/// /dev/vsock, which is only needed to read the CID.
fn node(machine: &Machine) -> Finding {
    let finding = |verdict, evidence: &str| Finding::bare("node", verdict, evidence);
    let cid = machine.probes.cid.map_err(Errno::from_raw);
    match (machine.has("/dev/vsock"), cid) {
        (_, Ok(_)) => finding(Verdict::Ok, "/dev/vsock opens").meaning("it tells the CID"),
        (true, Err(errno)) => finding(Verdict::Warning, &format!("/dev/vsock: {errno}"))
            .meaning("this machine's own CID cannot be asked for; connections do without")
            .hint("chmod a+r /dev/vsock; or run this as root"),
        (false, _) if machine.knows_vsock() => finding(Verdict::Warning, "there is no /dev/vsock")
            .meaning("this machine's own CID cannot be asked for; connections do without")
            .hint("mount -t devtmpfs devtmpfs /dev; in a container, give it the device"),
        (false, _) => finding(Verdict::Warning, "there is no /dev/vsock")
            .meaning("it comes with the module vsock, which is not in the kernel"),
    }
}

/// The CID by which the host knows this guest.
fn cid(machine: &Machine) -> Finding {
    let finding = |verdict, evidence: String| Finding::bare("cid", verdict, evidence);
    match machine.probes.cid.map_err(Errno::from_raw) {
        Ok(Cid::ANY) => finding(Verdict::Fault, "none".into())
            .meaning("no transport gives this machine an address: it has no vsock device, or no driver for it")
            .hint("see device and driver above"),
        Ok(Cid::LOCAL) => finding(Verdict::Fault, "1".into())
            .meaning("vsock goes from this machine to itself alone (vsock_loopback)")
            .hint("see device and driver above"),
        Ok(Cid::HOST) => finding(Verdict::Warning, Cid::HOST.to_string())
            .meaning("this machine is a vsock host (vhost_vsock is loaded), and no guest")
            .hint("if it is a guest, see device and driver above"),
        Ok(cid) => finding(Verdict::Ok, cid.to_string())
            .meaning(format!("the host knows this guest as CID {cid}; the host is CID 2")),
        Err(errno) => finding(Verdict::Warning, format!("not known: {errno}"))
            .meaning("see node above"),
    }
}

/// The transports that are loaded here.
fn transports(machine: &Machine) -> Finding {
    let loaded: Vec<_> = TRANSPORTS
        .iter()
        .filter(|(name, _)| machine.in_kernel(name))
        .map(|(name, what)| format!("{name} ({what})"))
        .collect();
    let finding = |verdict, evidence: String| Finding::bare("transports", verdict, evidence);
    if loaded.is_empty() {
        return finding(Verdict::Ok, "no module is loaded".into())
            .meaning("if vsock works all the same, its transport is built into the kernel");
    }
    let rivals = [VMCI, HYPERV].into_iter().find(|name| machine.in_kernel(name));
    let found = finding(Verdict::Ok, loaded.join(", "));
    match rivals.filter(|_| machine.in_kernel(VIRTIO)) {
        Some(rival) if !vsock_devices(machine).is_empty() => {
            Finding { verdict: Verdict::Warning, ..found }
                .meaning(format!(
                    "a kernel has one way to the host: {rival} may have taken the place of {VIRTIO}"
                ))
                .hint(format!("modprobe -r {rival}, then load {VIRTIO} again"))
        }
        _ if machine.in_kernel("vhost_vsock") => {
            found.meaning("this machine can have guests of its own; CID 2 is still its host's")
        }
        _ => found.meaning("nothing stands in the way"),
    }
}

#[cfg(test)]
mod tests;
