//! Why vsock does not work in this guest: findings, each with its hint, out of what is to be seen of
//! the machine. `cmd::probe` prints them. The checks are functions of a `Machine`, which is this one
//! or one in a test; they change nothing.

mod machine;

use nbd::uri::HOST_CID;
use nix::errno::Errno;
use serde_json::{Value, json};

use self::machine::{MODULES, Machine};

/// The transport that a guest of QEMU, Firecracker or Cloud Hypervisor needs.
const TRANSPORT: &str = "vmw_vsock_virtio_transport";
/// What the kernel calls no CID at all.
const CID_ANY: u32 = u32::MAX;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    /// To be known; it need not be in the way.
    Warning,
    Fault,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// A word that stays, for programs.
    pub(crate) id: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) evidence: String,
    pub(crate) meaning: String,
    pub(crate) hint: Option<String>,
}

impl Finding {
    pub(crate) fn new(id: &'static str, verdict: Verdict, evidence: impl Into<String>) -> Self {
        Self { id, verdict, evidence: evidence.into(), meaning: String::new(), hint: None }
    }

    pub(crate) fn meaning(self, meaning: impl Into<String>) -> Self {
        Self { meaning: meaning.into(), ..self }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// In two or three lines, as `agent doctor` has them.
    pub(crate) fn text(&self) -> String {
        let Self { id, verdict, evidence, meaning, hint } = self;
        let mut text = format!("{:8} {id}: {evidence}\n", verdict.word());
        for line in
            [meaning.clone(), hint.as_ref().map_or_else(String::new, |m| format!("hint: {m}"))]
        {
            if !line.is_empty() {
                text = format!("{text}         {line}\n");
            }
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let Self { id, verdict, evidence, meaning, hint } = self;
        json!({
            "id": id, "verdict": verdict.word(), "evidence": evidence, "meaning": meaning,
            "hint": hint,
        })
    }
}

impl Verdict {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// Looks at this machine. What stands before may explain what comes behind.
pub(crate) fn look() -> Vec<Finding> {
    findings(&Machine::this())
}

fn findings(machine: &Machine) -> Vec<Finding> {
    [device, driver, socket, node, cid, transports].map(|check| check(machine)).into()
}

/// The device that the host gives to the guest.
fn device(machine: &Machine) -> Finding {
    let finding = |verdict, evidence: String| Finding::new("device", verdict, evidence);
    let driven = machine.vsock.iter().find_map(|device| {
        device.driver.as_ref().map(|driver| format!("{} is driven by {driver}", device.name))
    });
    if let Some(driven) = driven {
        return finding(Verdict::Ok, driven).meaning("this machine has a virtio vsock device");
    }
    if let Some(device) = machine.vsock.first() {
        return finding(Verdict::Fault, format!("{} has no driver", device.name))
            .meaning("the vsock device is there, and nothing in the kernel uses it")
            .hint(load(machine, TRANSPORT, "CONFIG_VIRTIO_VSOCKETS"));
    }
    if let Some(device) = machine.pci.first() {
        let driver = device.driver.as_deref().unwrap_or("no driver");
        return finding(Verdict::Fault, format!("PCI device {} has {driver}", device.name))
            .meaning("the vsock device is on PCI, and it is not on the virtio bus")
            .hint(load(machine, "virtio_pci", "CONFIG_VIRTIO_PCI"));
    }
    for (module, whose) in [("hv_sock", "Hyper-V"), ("vmw_vsock_vmci_transport", "VMware")] {
        if machine.has(module) {
            return finding(Verdict::Ok, format!("no virtio device; {module} is in the kernel"))
                .meaning(format!("{whose} has a vsock of its own, without virtio"));
        }
    }
    if !machine.sysfs {
        return finding(Verdict::Warning, "there is no /sys".into())
            .meaning("whether this machine has a vsock device cannot be seen")
            .hint("mount -t sysfs sysfs /sys");
    }
    let evidence = format!("none among {} virtio devices, none on PCI", machine.virtio);
    finding(Verdict::Fault, evidence)
        .meaning("the host gives this guest no vsock device; or a container hides it")
        .hint(
            "give the VM one: QEMU's '-device vhost-vsock-pci,guest-cid=N', or libvirt's <vsock \
             model='virtio'><cid auto='yes'/></vsock>; 'agent qemu attach' plugs one into a VM \
             that runs",
        )
}

/// How a module comes into this kernel.
fn load(machine: &Machine, module: &str, option: &str) -> String {
    match machine.can_load(module) {
        Some(true) => format!(
            "modprobe {module}; for every boot: echo {module} > /etc/modules-load.d/vsock.conf"
        ),
        Some(false) => format!(
            "this kernel, {}, has no module {module}: install the package with its further modules \
             (linux-modules-extra-{}), or a kernel with {option}",
            machine.release, machine.release
        ),
        None => format!(
            "modprobe {module}; the modules of this kernel, {}, are not below /lib/modules: an \
             initramfs needs {module}.ko and what it depends on",
            machine.release
        ),
    }
}

/// The kernel's half of that device.
fn driver(machine: &Machine) -> Finding {
    let finding = |verdict, evidence: String| Finding::new("driver", verdict, evidence);
    if machine.has(TRANSPORT) {
        return finding(Verdict::Ok, format!("{TRANSPORT} is in the kernel"))
            .meaning("the kernel can use a virtio vsock device");
    }
    if machine.vsock.iter().any(|device| device.driver.is_some()) {
        return finding(Verdict::Ok, "it is built in".into())
            .meaning("the kernel can use a virtio vsock device");
    }
    // Without a device it would not help.
    let verdict = if machine.vsock.is_empty() { Verdict::Warning } else { Verdict::Fault };
    finding(verdict, format!("{TRANSPORT} is not loaded"))
        .meaning("the kernel would not use a virtio vsock device")
        .hint(load(machine, TRANSPORT, "CONFIG_VIRTIO_VSOCKETS"))
}

/// Whether this process may have such sockets.
fn socket(machine: &Machine) -> Finding {
    let finding = |verdict, evidence: String| Finding::new("socket", verdict, evidence);
    match machine.socket {
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
        Err(Errno::EAFNOSUPPORT) if !machine.protocol => {
            finding(Verdict::Fault, "socket(AF_VSOCK): address family not supported".into())
                .meaning("the kernel has no AF_VSOCK")
                .hint(load(machine, TRANSPORT, "CONFIG_VSOCKETS"))
        }
        Err(errno) => finding(Verdict::Fault, format!("socket(AF_VSOCK): {errno}"))
            .meaning("the kernel gives no vsock socket to this process")
            .hint("in a container or unit, allow AF_VSOCK; else see the kernel's log"),
    }
}

/// /dev/vsock, which only tells the CID.
fn node(machine: &Machine) -> Finding {
    let finding = |verdict, evidence: &str| Finding::new("node", verdict, evidence);
    match (machine.node, machine.cid) {
        (_, Ok(_)) => finding(Verdict::Ok, "/dev/vsock opens").meaning("it tells the CID"),
        (true, Err(errno)) => finding(Verdict::Warning, &format!("/dev/vsock: {errno}"))
            .meaning("this machine's own CID cannot be asked for; connections do without")
            .hint("chmod a+r /dev/vsock; or run this as root"),
        (false, _) if machine.protocol => finding(Verdict::Warning, "there is no /dev/vsock")
            .meaning("this machine's own CID cannot be asked for; connections do without")
            .hint("mount -t devtmpfs devtmpfs /dev; in a container, give it the device"),
        (false, _) => finding(Verdict::Warning, "there is no /dev/vsock")
            .meaning("it comes with the module vsock, which is not in the kernel"),
    }
}

/// Under which number the host knows this guest.
fn cid(machine: &Machine) -> Finding {
    let finding = |verdict, evidence: String| Finding::new("cid", verdict, evidence);
    match machine.cid {
        Ok(CID_ANY) => finding(Verdict::Fault, "none".into())
            .meaning("no transport gives this machine an address: it has no vsock device, or no driver for it")
            .hint("see device and driver above"),
        Ok(1) => finding(Verdict::Fault, "1".into())
            .meaning("vsock goes from this machine to itself alone (vsock_loopback)")
            .hint("see device and driver above"),
        Ok(HOST_CID) => finding(Verdict::Warning, HOST_CID.to_string())
            .meaning("this machine counts as a host (vhost_vsock is loaded), and as nobody's guest")
            .hint("if it is a guest, see device and driver above"),
        Ok(cid @ (0 | 3..)) => finding(Verdict::Ok, cid.to_string())
            .meaning(format!("the host knows this guest as CID {cid}; the host is CID {HOST_CID}")),
        Err(errno) => finding(Verdict::Warning, format!("not known: {errno}"))
            .meaning("see node above"),
    }
}

/// Which ways vsock has here.
fn transports(machine: &Machine) -> Finding {
    let loaded: Vec<_> = MODULES
        .iter()
        .filter(|(name, _)| machine.has(name) && !["vsock", "virtio_pci"].contains(name))
        .map(|(name, what)| format!("{name} ({what})"))
        .collect();
    let finding = |verdict, evidence: String| Finding::new("transports", verdict, evidence);
    if loaded.is_empty() {
        return finding(Verdict::Ok, "no module is loaded".into())
            .meaning("if vsock works all the same, its transport is built into the kernel");
    }
    let rivals = ["vmw_vsock_vmci_transport", "hv_sock"].into_iter().find(|name| machine.has(name));
    let found = finding(Verdict::Ok, loaded.join(", "));
    match rivals.filter(|_| machine.has(TRANSPORT)) {
        Some(rival) if !machine.vsock.is_empty() => Finding { verdict: Verdict::Warning, ..found }
            .meaning(format!(
                "a kernel has one way to the host: {rival} may have taken the place of {TRANSPORT}"
            ))
            .hint(format!("modprobe -r {rival}, then load {TRANSPORT} again")),
        _ if machine.has("vhost_vsock") => {
            found.meaning("this machine can have guests of its own; CID 2 is still its host's")
        }
        _ => found.meaning("nothing stands in the way"),
    }
}

#[cfg(test)]
mod tests;
