//! What SELinux and AppArmor have denied, from the logs that this user may read.

use super::{Finding, Machine, Verdict, mend::Mend};

/// Where denials are written; the kernel's own log is a probe.
const LOGS: &[&str] =
    &["/var/log/audit/audit.log", "/var/log/kern.log", "/var/log/syslog", "/var/log/messages"];

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    vec![selinux(machine), apparmor(machine)]
}

/// The last denial that is about vsock. `None` inside: no log could be read.
fn last(machine: &Machine, denied: fn(&str) -> bool) -> (bool, Option<String>) {
    let logs = LOGS.iter().filter_map(|path| machine.read(path));
    let kernel = Some(machine.probes.log.clone()).filter(|log| !log.is_empty());
    let logs: Vec<_> = kernel.into_iter().chain(logs).collect();
    let line = logs.iter().find_map(|log| log.lines().rfind(|line| denied(line)));
    (!logs.is_empty(), line.map(|line| line.trim().to_owned()))
}

fn of_vsock(line: &str) -> bool {
    ["vsock_socket", "vhost-vsock", "vhost_vsock", "family=\"vsock\""]
        .iter()
        .any(|mark| line.contains(mark))
}

/// What a log without a denial means.
fn none(seen: bool) -> &'static str {
    if seen {
        "and no denial of vsock is in the logs"
    } else {
        "and no log could be read here: root sees its denials"
    }
}

fn selinux(machine: &Machine) -> Finding {
    let checked = "denials of SELinux";
    let finding = |verdict, evidence: String| Finding::new("selinux", verdict, checked, evidence);
    let mode = match machine.value("/sys/fs/selinux/enforce").as_deref() {
        None => {
            return finding(Verdict::Ok, "not in this kernel".into()).meaning("it denies nothing");
        }
        Some("1") => "it is enforcing",
        Some(_) => "it is permissive",
    };
    let denied = |line: &str| line.contains("avc:") && line.contains("denied") && of_vsock(line);
    match last(machine, denied) {
        (seen, None) => finding(Verdict::Ok, format!("{mode}, {}", none(seen)))
            .meaning("nothing is known against it"),
        (_, Some(line)) => finding(Verdict::Warning, format!("{mode}: {line}"))
            .meaning("a program was denied vsock; where it enforces, that guest is not served")
            .mend(Mend::advice(
                "'ausearch -m avc -ts recent | audit2allow -M agent-vsock', read \
                 agent-vsock.te, then 'semodule -i agent-vsock.pp'; or let systemd start the agent \
                 in a domain that may",
            )),
    }
}

fn apparmor(machine: &Machine) -> Finding {
    let checked = "denials of AppArmor";
    let finding = |verdict, evidence: String| Finding::new("apparmor", verdict, checked, evidence);
    if machine.value("/sys/module/apparmor/parameters/enabled").as_deref() != Some("Y") {
        return finding(Verdict::Ok, "not in use".into()).meaning("it denies nothing");
    }
    let own = machine
        .value("/proc/self/attr/apparmor/current")
        .or_else(|| machine.value("/proc/self/attr/current"))
        .filter(|profile| !profile.is_empty());
    let own = own.map_or_else(String::new, |profile| format!(", this process is {profile}"));
    let denied = |line: &str| line.contains("apparmor=\"DENIED\"") && of_vsock(line);
    match last(machine, denied) {
        (seen, None) => finding(Verdict::Ok, format!("it is in use{own}, {}", none(seen)))
            .meaning("nothing is known against it"),
        (_, Some(line)) => {
            let profile = line.split("profile=\"").nth(1).and_then(|rest| rest.split('"').next());
            let profile = profile.unwrap_or("PROFILE").to_owned();
            finding(Verdict::Warning, format!("it is in use{own}: {line}"))
                .meaning(format!("the profile {profile} keeps vsock from its program"))
                .mend(Mend::advice(format!(
                    "add 'network vsock,' and '/dev/vhost-vsock rw,' to the profile {profile} below \
                     /etc/apparmor.d (libvirt's: abstractions/libvirt-qemu), then 'apparmor_parser \
                     -r' on its file"
                )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::Tree;

    const AVC: &str = "type=AVC msg=audit(1.2:3): avc:  denied  { create } for  pid=7 \
                       comm=\"agent\" scontext=a tcontext=b tclass=vsock_socket permissive=0";

    #[test]
    fn denials_of_selinux_are_those_of_vsock() {
        assert_eq!(Tree::new("6.1.0").finding(check, "selinux").verdict, Verdict::Ok);
        let enforcing = || Tree::new("6.1.0").file("/sys/fs/selinux/enforce", "1");
        let found = enforcing().finding(check, "selinux");
        assert!(found.evidence.contains("no log could be read"), "{found:?}");
        let other = "avc:  denied  { read } for comm=\"agent\" tclass=file\n";
        let found = enforcing().file("/var/log/audit/audit.log", other).finding(check, "selinux");
        assert!(found.evidence.contains("no denial of vsock"), "{found:?}");
        let text = format!("{AVC}\n{other}");
        let found = enforcing().file("/var/log/audit/audit.log", &text).finding(check, "selinux");
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.evidence.ends_with("permissive=0"), "{found:?}");
        assert!(found.mend.unwrap().to_string().contains("audit2allow"));
    }

    #[test]
    fn denials_of_apparmor_name_the_profile() {
        assert_eq!(Tree::new("6.1.0").finding(check, "apparmor").verdict, Verdict::Ok);
        let line = "6,1,2,-;audit: type=1400 audit(1.2:3): apparmor=\"DENIED\" operation=\"open\" \
                    profile=\"libvirt-77\" name=\"/dev/vhost-vsock\" pid=9 comm=\"qemu\"\n";
        let found = Tree::new("6.1.0")
            .file("/sys/module/apparmor/parameters/enabled", "Y\n")
            .file("/proc/self/attr/current", "unconfined\n")
            .probe(|probes| probes.log = line.into())
            .finding(check, "apparmor");
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.evidence.starts_with("it is in use, this process is unconfined: "));
        assert!(found.meaning.contains("libvirt-77"), "{found:?}");
    }
}
