//! Reasons why the kernel does not load a module that is installed.
//!
//! Opening the device fails with ENODEV for each of them, and for a conflict of transports too. Only
//! the evidence tells them apart; where it does not, the hint `unsettled` says how to find out.

use super::{container::container, kernel};
use crate::{
    hint::{Hint, Step},
    machine::Machine,
    modules::ModuleFile,
};

/// A reason that is known to keep a module out, whatever other reasons there are.
pub(super) struct Obstacle {
    pub(super) evidence: String,
    pub(super) meaning: String,
    pub(super) hint: Hint,
}

/// The reasons that keep vhost_vsock out now, except for other transports.
pub(super) fn obstacles(machine: &Machine) -> Vec<Obstacle> {
    let files = machine.files("vhost_vsock");
    let missing = files.iter().filter_map(|file| dependency(machine, file));
    locked(machine).into_iter().chain(missing).chain(helper(machine)).collect()
}

/// The reason why loading vhost_vsock failed last, from the kernel's log. It may be gone since.
pub(super) fn logged(machine: &Machine) -> Option<Obstacle> {
    let names: Vec<_> = machine.files("vhost_vsock").iter().map(ModuleFile::name).collect();
    signature(machine).or_else(|| mismatch(machine, &names))
}

/// Reasons that may keep vhost_vsock out, for which there is no proof.
pub(super) fn suspects(machine: &Machine) -> Vec<String> {
    // A log without a refusal rules it out.
    let enforced = enforced(machine).filter(|_| machine.kernel_log().is_empty());
    let signed =
        |how| format!("{how}, and no log that may be read here says whether it refused one");
    enforced.map(signed).into_iter().collect()
}

/// Whether the kernel loads and unloads no modules until its next start.
pub(super) fn modules_disabled(machine: &Machine) -> bool {
    machine.value("/proc/sys/kernel/modules_disabled").as_deref() == Some("1")
}

fn locked(machine: &Machine) -> Option<Obstacle> {
    if !modules_disabled(machine) {
        return None;
    }
    let setting = |text: &str| {
        text.lines().any(|line| {
            let line = line.trim_start_matches(['-', ' ']).replace([' ', '\t'], "");
            line.replace('/', ".").starts_with("kernel.modules_disabled=1")
        })
    };
    let directories = ["/etc/sysctl.d", "/run/sysctl.d", "/usr/lib/sysctl.d"];
    let by = machine
        .paths_in(&directories)
        .into_iter()
        .chain(["/etc/sysctl.conf".to_owned()])
        .find(|path| machine.read(path).is_some_and(|text| setting(&text)));
    let by = by.map_or_else(String::new, |path| format!(", by {path}"));
    Some(Obstacle {
        evidence: format!("/proc/sys/kernel/modules_disabled is 1{by}"),
        meaning:
            "this machine loads and unloads no module any more until its next start, on purpose"
                .into(),
        hint: Hint::unsafe_steps(
            "and reboot: that file's modules are loaded before sysctls are set, and nothing takes \
             kernel.modules_disabled back while the machine runs",
            vec![kernel::AT_START],
        ),
    })
}

fn dependency(machine: &Machine, file: &ModuleFile) -> Option<Obstacle> {
    let name = file.name();
    if machine.module(&name).is_some() {
        return None;
    }
    let what =
        if name == "vhost_vsock" { "vhost_vsock" } else { "a module that vhost_vsock needs" };
    if !machine.has(&file.path) {
        let path = &file.path;
        return Some(Obstacle {
            evidence: format!("{path} is not there, and modules.dep names it"),
            meaning: format!("the file of {name} is missing, {what}"),
            hint: Hint::advice(format!(
                "install the modules of this kernel again ({}), then 'depmod -a' and 'modprobe \
                 vhost_vsock'",
                machine.release()
            )),
        });
    }
    // A ban of vhost_vsock itself is checked elsewhere. What it depends on is kept out only by an
    // "install" line or by the kernel's command line.
    let ban = machine.replaced(&name).filter(|_| name != "vhost_vsock")?;
    Some(Obstacle {
        evidence: format!("{} keeps the module {name} out", ban.by),
        meaning: format!("an administrator has forbidden {name}, {what}"),
        hint: Hint::advice(ban.lifted()),
    })
}

/// How this kernel enforces signatures of modules, if it does.
fn enforced(machine: &Machine) -> Option<String> {
    let lockdown = machine.value("/sys/kernel/security/lockdown").unwrap_or_default();
    let lockdown = lockdown.split(['[', ']']).nth(1).filter(|mode| *mode != "none");
    if let Some(mode) = lockdown {
        return Some(format!("the kernel is in lockdown ({mode}) and takes signed modules only"));
    }
    let enforce = machine.value("/sys/module/module/parameters/sig_enforce");
    (enforce.as_deref() == Some("Y"))
        .then(|| "the kernel takes signed modules only (module.sig_enforce)".into())
}

fn signature(machine: &Machine) -> Option<Obstacle> {
    let how = enforced(machine)?;
    let log = machine.kernel_log();
    let refused = log.lines().rfind(|line| {
        line.contains("module loading is restricted")
            || (line.contains("Loading of ") && line.contains(" is rejected"))
    })?;
    Some(Obstacle {
        evidence: format!("{how}; its log: {}", refused.trim()),
        meaning:
            "a module was refused for its signature, vhost_vsock or one below it most likely: \
                  'modprobe vhost_vsock' says 'Key was rejected by service' or 'Operation not \
                  permitted' if it was"
                .into(),
        hint: Hint::advice(
            "install the modules that came with this kernel; one of your own build must be signed \
             with a key that the firmware trusts ('mokutil --import KEY.der', then 'kmodsign sha512 \
             KEY.priv KEY.der FILE.ko')",
        ),
    })
}

/// The reason that a module was built for another kernel.
fn mismatch(machine: &Machine, names: &[String]) -> Option<Obstacle> {
    let log = machine.kernel_log();
    let line = log.lines().rfind(|line| {
        let told = ["Unknown symbol", "disagrees about version of symbol", "version magic"];
        told.iter().any(|what| line.contains(what))
            && names.iter().any(|name| line.contains(&format!("{name}: ")))
    })?;
    Some(Obstacle {
        evidence: format!("the kernel's log: {}", line.trim()),
        meaning:
            "when it was tried last the module, or one below it, was of another build than the \
                  running kernel"
                .into(),
        hint: Hint::advice(format!(
            "install the modules of the running kernel ({}) again, 'depmod -a', or reboot into the \
             kernel that is installed",
            machine.release()
        )),
    })
}

/// The reason that the kernel's helper, which loads modules on demand, does not run.
fn helper(machine: &Machine) -> Option<Obstacle> {
    // The path is one of the machine's, so a container cannot check it.
    let path =
        machine.value("/proc/sys/kernel/modprobe").filter(|_| container(machine).is_none())?;
    let evidence = if path.is_empty() {
        "/proc/sys/kernel/modprobe is empty".to_owned()
    } else if !machine.has(&path) {
        format!("/proc/sys/kernel/modprobe is {path}, which is not there")
    } else {
        return None;
    };
    Some(Obstacle {
        evidence,
        meaning: "the kernel loads no module by itself here: they must be loaded by name".into(),
        hint: kernel::load(),
    })
}

/// Loads vhost_vsock by name, and explains the messages with which this may fail.
pub(super) fn unsettled() -> Hint {
    Hint::safe(vec![Step::Run(&["modprobe", "vhost_vsock"]), kernel::AT_START]).and(
        "where that fails, its words settle it: 'Device or resource busy' is another transport in \
         the host's place ('lsmod', 'modprobe -r vmw_vsock_vmci_transport'); 'Key was rejected', \
         'Required key not available' or 'Operation not permitted' is a signature or lockdown; \
         'Unknown symbol', 'Exec format error' or 'not found' is a module of another build or one \
         that is missing below it ('depmod -a', install the kernel's modules again); 'dmesg | tail' \
         has the kernel's words",
    )
}

#[cfg(test)]
mod tests;
