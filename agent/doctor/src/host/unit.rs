//! What systemd keeps from two services: the one of this process, and the agent's own where it is
//! installed. `systemctl show` reports it, drop-ins included.

use crate::{Finding, Verdict, hint::Hint, machine::Machine, run::Asked, service::Own};

/// The system calls of a server on vsock.
const CALLS: &[&str] = &["socket", "bind", "listen", "accept4"];

pub(super) fn own(machine: &Machine) -> Option<Own> {
    Own::of(&machine.read("/proc/self/cgroup")?)
}

/// A list of names that are allowed, or of names that are forbidden.
#[derive(Debug, Clone, PartialEq, Eq)]
struct List {
    allowed: bool,
    names: Vec<String>,
}

impl List {
    /// `systemctl show` puts '~' before what is forbidden; an empty list without it allows nothing.
    fn parse(value: &str) -> Self {
        let allowed = !value.starts_with('~');
        let names = value.trim_start_matches('~').split_whitespace();
        // The name of a call may be followed by its error.
        let names = names.map(|name| name.split(':').next().unwrap_or(name).to_owned());
        Self { allowed, names: names.collect() }
    }

    fn forbids(&self, name: &str) -> bool {
        self.names.iter().any(|listed| listed == name) != self.allowed
    }
}

/// A unit as `systemctl show` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) id: String,
    families: Option<List>,
    calls: Option<List>,
    /// The error of a forbidden call. `None`: the process is killed.
    errno: Option<i32>,
    private_devices: bool,
    policy: String,
    devices: Vec<String>,
}

impl Unit {
    /// `None` where there is no such unit.
    fn parse(block: &str) -> Option<Self> {
        let all = |key: &str| -> Vec<&str> {
            let lines = block.lines().filter_map(|line| line.split_once('='));
            lines.filter(|(name, _)| *name == key).map(|(_, value)| value.trim()).collect()
        };
        let one = |key| all(key).first().copied();
        if one("LoadState") != Some("loaded") {
            return None;
        }
        Some(Self {
            id: one("Id")?.to_owned(),
            families: one("RestrictAddressFamilies").map(List::parse),
            calls: one("SystemCallFilter").map(List::parse),
            // systemd's number for "kill" is no errno.
            errno: one("SystemCallErrorNumber")
                .and_then(|number| number.parse().ok())
                .filter(|number| (1..4096).contains(number)),
            private_devices: one("PrivateDevices") == Some("yes"),
            policy: one("DevicePolicy").unwrap_or("auto").to_owned(),
            devices: all("DeviceAllow")
                .iter()
                .filter_map(|device| device.split_whitespace().next())
                .map(str::to_owned)
                .collect(),
        })
    }

    /// Whether RestrictAddressFamilies= forbids AF_VSOCK.
    pub(super) fn forbids_family(&self) -> bool {
        self.families.as_ref().is_some_and(|families| families.forbids("AF_VSOCK"))
    }

    /// The first system call of a server that SystemCallFilter= forbids.
    pub(super) fn forbidden_call(&self) -> Option<&'static str> {
        let calls = self.calls.as_ref()?;
        CALLS.iter().copied().find(|name| calls.forbids(name))
    }

    /// The setting that keeps /dev/vhost-vsock from the unit.
    pub(super) fn forbids_device(&self) -> Option<String> {
        let listed = |device: &String| {
            matches!(device.as_str(), "/dev/vhost-vsock" | "char-misc" | "char-*")
        };
        if self.private_devices {
            // The unit's own /dev has no such node, whatever DeviceAllow= says.
            return Some("PrivateDevices=yes".into());
        }
        if self.devices.iter().any(listed) {
            return None;
        }
        match (self.policy.as_str(), self.devices.is_empty()) {
            ("auto", true) => None,
            ("auto", false) => Some("DeviceAllow= without /dev/vhost-vsock".into()),
            (policy, _) => Some(format!("DevicePolicy={policy}")),
        }
    }

    fn gets(&self) -> String {
        match self.errno {
            Some(libc::EPERM) => "fails with EPERM".into(),
            Some(errno) => format!("fails: {}", std::io::Error::from_raw_os_error(errno)),
            None => "has the process killed (SIGSYS)".into(),
        }
    }
}

/// The units that exist, as systemctl shows them.
pub(super) fn shown(machine: &Machine) -> Vec<Unit> {
    let Some(Asked { answer: Ok(text), .. }) = &machine.probes.units else { return Vec::new() };
    let mut units: Vec<Unit> = Vec::new();
    for unit in text.split("\n\n").filter_map(Unit::parse) {
        // The unit of this process may be one of the agent's.
        if units.iter().all(|known| known.id != unit.id) {
            units.push(unit);
        }
    }
    units
}

/// The service of this process, where systemctl shows it.
pub(super) fn own_shown(machine: &Machine) -> Option<(Own, Unit)> {
    let own = own(machine)?;
    let unit = shown(machine).into_iter().find(|unit| unit.id == own.name)?;
    Some((own, unit))
}

/// The hint to add lines to the drop-in of a unit.
pub(super) fn edit(systemctl: &str, unit: &str, lines: &str) -> Hint {
    Hint::advice(format!(
        "'{systemctl} edit {unit}' with the lines [Service] and {lines}, then '{systemctl} restart \
         {unit}'"
    ))
}

/// These settings add to a list of what is allowed, and remove from a list of what is forbidden.
pub(super) const FAMILY: &str = "RestrictAddressFamilies=AF_VSOCK";
pub(super) const CALL: &str = "SystemCallFilter=@network-io";
pub(super) const DEVICE: &str =
    "PrivateDevices=no and DeviceAllow=/dev/vhost-vsock rw and SupplementaryGroups=kvm";

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let finding =
        |verdict, checked: &str, evidence: String| Finding::new("unit", verdict, checked, evidence);
    let own = own(machine);
    let units = shown(machine);
    let systemctl = |unit: &Unit| match &own {
        Some(own) if own.name == unit.id => own.systemctl(),
        _ => "systemctl",
    };
    let mut findings: Vec<_> =
        units.iter().map(|unit| told(unit, own.as_ref(), systemctl(unit))).collect();
    if let Some(own) = own.as_ref().filter(|own| units.iter().all(|unit| unit.id != own.name)) {
        let why = match machine.probes.units.as_ref().map(|asked| &asked.answer) {
            Some(Err(error)) => format!("systemctl does not tell: {error}"),
            Some(Ok(_)) => "systemctl does not know it".into(),
            None => "there is no systemctl here".into(),
        };
        findings.push(
            finding(Verdict::Ok, &format!("what {} may do", own.name), why)
                .meaning("only what it could do just now is known: see the findings above"),
        );
    }
    if findings.is_empty() {
        let checked = "what systemd keeps from the agent";
        findings.push(match machine.probes.units.as_ref().map(|asked| &asked.answer) {
            Some(Err(error)) => {
                finding(Verdict::Ok, checked, format!("systemctl does not tell: {error}"))
                    .meaning("this process is in no service; of the agent's nothing is known")
            }
            _ => finding(Verdict::Ok, checked, "nothing".into())
                .meaning("this process is in no service, and the agent's is not loaded here"),
        });
    }
    findings
}

fn told(unit: &Unit, own: Option<&Own>, systemctl: &str) -> Finding {
    let Unit { id, .. } = unit;
    let here = if own.is_some_and(|own| own.name == *id) { ", which this is," } else { "" };
    let (mut evidence, mut meanings, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    if unit.forbids_family() {
        evidence.push("RestrictAddressFamilies= keeps AF_VSOCK from it".to_owned());
        meanings.push("--vsock fails there with EAFNOSUPPORT".to_owned());
        lines.push(FAMILY);
    }
    if let Some(call) = unit.forbidden_call() {
        evidence.push(format!("SystemCallFilter= keeps {call}() from it"));
        meanings.push(format!("{call}() there {}", unit.gets()));
        lines.push(CALL);
    }
    let verdict = if lines.is_empty() { Verdict::Ok } else { Verdict::Warning };
    if lines.is_empty() {
        evidence.push("AF_VSOCK and the calls of a server are allowed".into());
        meanings.push("an agent can serve there".into());
    } else {
        meanings
            .push("sockets that systemd passes to it (its socket unit) are not affected".into());
    }
    if let Some(why) = unit.forbids_device() {
        evidence.push(format!("{why} keeps /dev/vhost-vsock from it"));
        meanings.push(format!(
            "it cannot give guests CIDs itself, which only --qmp does (that needs {DEVICE})"
        ));
    }
    let finding =
        Finding::new("unit", verdict, &format!("what {id}{here} may do"), evidence.join("; "));
    let finding = finding.meaning(meanings.join("; "));
    if lines.is_empty() { finding } else { finding.hint(edit(systemctl, id, &lines.join(" and "))) }
}

#[cfg(test)]
mod tests;
