//! Denials of SELinux and AppArmor.
//!
//! They are in logs that root may read, and in part the groups adm and systemd-journal. Other users see
//! only how their own process is confined and which call was refused. The findings then say that, and
//! claim no more.

use crate::{Finding, Verdict, hint::Hint, machine::Machine};

/// Files with denials. The kernel's own log and the journal are probes.
const LOGS: &[&str] =
    &["/var/log/audit/audit.log", "/var/log/kern.log", "/var/log/syslog", "/var/log/messages"];

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    vec![selinux(machine), apparmor(machine)]
}

/// The result of a search for denials in the logs.
enum Search {
    /// The last denial of vsock.
    Denied(String),
    /// The logs that were read, which have no denial of vsock.
    Quiet(String),
    /// This user may read no log.
    Unread(String),
}

fn search(machine: &Machine, denied: fn(&str) -> bool) -> Search {
    let mut logs: Vec<(&str, String)> = Vec::new();
    for (name, text) in
        [("the kernel's log", &machine.probes.log), ("the journal", &machine.probes.journal)]
    {
        if !text.is_empty() {
            logs.push((name, text.clone()));
        }
    }
    logs.extend(LOGS.iter().filter_map(|path| Some((*path, machine.read(path)?))));
    let lines = logs.iter().find_map(|(_, log)| log.lines().rfind(|line| denied(line)));
    if let Some(line) = lines {
        return Search::Denied(line.trim().to_owned());
    }
    if logs.is_empty() {
        let user = &machine.probes.user;
        return Search::Unread(format!(
            "{user} may read no log of denials (root may, and the groups adm and systemd-journal)"
        ));
    }
    let names: Vec<_> = logs.iter().map(|(name, _)| *name).collect();
    Search::Quiet(format!("no denial of vsock is in {}", names.join(", ")))
}

fn of_vsock(line: &str) -> bool {
    ["vsock_socket", "vhost-vsock", "vhost_vsock", "family=\"vsock\""]
        .iter()
        .any(|mark| line.contains(mark))
}

/// A call that was refused in the way of a security module, and not of a file mode or a filter.
fn refused(machine: &Machine) -> Option<&'static str> {
    let probes = &machine.probes;
    let refused = Err(libc::EACCES);
    [
        (probes.socket == refused, "socket(AF_VSOCK) fails with EACCES"),
        (probes.bind == refused && probes.port >= 1024, "binding the port fails with EACCES"),
        (
            probes.vhost == refused && probes.user == "root",
            "root may not open /dev/vhost-vsock (EACCES)",
        ),
    ]
    .into_iter()
    .find_map(|(so, what)| so.then_some(what))
}

/// The finding where the logs have no denial.
fn unproven(
    machine: &Machine,
    finding: impl Fn(Verdict, String) -> Finding,
    (seen, unread): (String, bool),
    look: &str,
) -> Finding {
    match (refused(machine), unread) {
        (Some(what), _) => finding(Verdict::Warning, format!("{seen}; {what}"))
            .meaning("it refuses calls in this way, so it may be the cause")
            .hint(Hint::advice(look)),
        (None, true) => finding(Verdict::Ok, seen).meaning(
            "no call of the doctor itself was refused; root sees the denials of other processes",
        ),
        (None, false) => finding(Verdict::Ok, seen).meaning("nothing is known against it"),
    }
}

/// The confinement of this process, as the kernel names it.
fn own(machine: &Machine, module: &str) -> String {
    let own = machine
        .value(&format!("/proc/self/attr/{module}/current"))
        .or_else(|| machine.value("/proc/self/attr/current"))
        .map(|name| name.trim_end_matches('\0').to_owned())
        .filter(|name| !name.is_empty());
    own.map_or_else(String::new, |name| format!(", this process is {name}"))
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
    let mode = format!("{mode}{}", own(machine, "selinux"));
    let denied = |line: &str| line.contains("avc:") && line.contains("denied") && of_vsock(line);
    let (why, unread) = match search(machine, denied) {
        Search::Denied(line) => {
            return finding(Verdict::Warning, format!("{mode}: {line}"))
                .meaning("a program was denied vsock; where it enforces, that guest is not served")
                .hint(Hint::advice(
                    "'ausearch -m avc -ts recent | audit2allow -M agent-vsock', read \
                     agent-vsock.te, then 'semodule -i agent-vsock.pp'; or let systemd start the \
                     agent in a domain that may",
                ));
        }
        Search::Quiet(why) => (why, false),
        Search::Unread(why) => (why, true),
    };
    unproven(
        machine,
        finding,
        (format!("{mode}; {why}"), unread),
        "as root: 'semodule -DB' (it shows what policies keep quiet about), try again, 'ausearch -m \
         avc -ts recent', 'semodule -B'",
    )
}

fn apparmor(machine: &Machine) -> Finding {
    let checked = "denials of AppArmor";
    let finding = |verdict, evidence: String| Finding::new("apparmor", verdict, checked, evidence);
    if machine.value("/sys/module/apparmor/parameters/enabled").as_deref() != Some("Y") {
        return finding(Verdict::Ok, "not in use".into()).meaning("it denies nothing");
    }
    let mode = format!("it is in use{}", own(machine, "apparmor"));
    let denied = |line: &str| line.contains("apparmor=\"DENIED\"") && of_vsock(line);
    let (why, unread) = match search(machine, denied) {
        Search::Denied(line) => {
            let profile = line.split("profile=\"").nth(1).and_then(|rest| rest.split('"').next());
            let profile = profile.unwrap_or("PROFILE").to_owned();
            return finding(Verdict::Warning, format!("{mode}: {line}"))
                .meaning(format!("the profile {profile} keeps vsock from its program"))
                .hint(Hint::advice(format!(
                    "add 'network vsock,' and '/dev/vhost-vsock rw,' to the profile {profile} below \
                     /etc/apparmor.d (libvirt's: abstractions/libvirt-qemu), then 'apparmor_parser \
                     -r' on its file"
                )));
        }
        Search::Quiet(why) => (why, false),
        Search::Unread(why) => (why, true),
    };
    unproven(
        machine,
        finding,
        (format!("{mode}; {why}"), unread),
        "as root: 'aa-status', and 'journalctl -k -g apparmor' after another try",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tree;

    const AVC: &str = "type=AVC msg=audit(1.2:3): avc:  denied  { create } for  pid=7 \
                       comm=\"agent\" scontext=a tcontext=b tclass=vsock_socket permissive=0";

    #[test]
    fn denials_of_selinux_are_those_of_vsock() {
        assert_eq!(Tree::new("6.1.0").finding(check, "selinux").verdict, Verdict::Ok);
        let enforcing = || Tree::new("6.1.0").file("/sys/fs/selinux/enforce", "1");
        let found = enforcing().finding(check, "selinux");
        assert!(found.evidence.contains("root may read no log of denials"), "{found:?}");
        let other = "avc:  denied  { read } for comm=\"agent\" tclass=file\n";
        let found = enforcing().file("/var/log/audit/audit.log", other).finding(check, "selinux");
        assert!(found.evidence.contains("no denial of vsock"), "{found:?}");
        let text = format!("{AVC}\n{other}");
        let found = enforcing().file("/var/log/audit/audit.log", &text).finding(check, "selinux");
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.evidence.ends_with("permissive=0"), "{found:?}");
        assert!(found.hint.unwrap().to_string().contains("audit2allow"));
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

    #[test]
    fn an_ordinary_user_learns_that_logs_cannot_be_read() {
        let ann = |profile: &str| {
            Tree::new("6.1.0")
                .file("/sys/module/apparmor/parameters/enabled", "Y\n")
                .file("/proc/self/attr/apparmor/current", profile)
                .probe(|probes| probes.user = "ann".into())
        };
        let found = ann("unconfined\n").finding(check, "apparmor");
        assert_eq!(found.verdict, Verdict::Ok);
        assert!(found.evidence.contains("ann may read no log of denials"), "{found:?}");
        assert!(found.meaning.contains("root sees"), "{found:?}");
        // A refusal is evidence that needs no log.
        let tree = ann("agent (enforce)\n").probe(|probes| probes.socket = Err(libc::EACCES));
        let found = tree.finding(check, "apparmor");
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.evidence.contains("this process is agent (enforce)"), "{found:?}");
        assert!(found.evidence.ends_with("socket(AF_VSOCK) fails with EACCES"), "{found:?}");
        assert!(found.hint.unwrap().to_string().contains("aa-status"));
        // Members of the journal's groups may read it.
        let line = "2026-01-02T03:04:05+00:00 host audit[9]: AVC apparmor=\"DENIED\" \
                    operation=\"create\" class=\"net\" profile=\"agent\" family=\"vsock\"\n";
        let tree = ann("unconfined\n").probe(|probes| probes.journal = line.into());
        assert!(tree.finding(check, "apparmor").meaning.contains("profile agent keeps"));
    }

    #[test]
    fn a_refusal_of_root_points_to_selinux() {
        let enforcing = Tree::new("6.1.0")
            .file("/sys/fs/selinux/enforce", "1")
            .file("/proc/self/attr/current", "system_u:system_r:nbd_t:s0\0")
            .file("/var/log/audit/audit.log", "type=LOGIN\n");
        let tree = enforcing.probe(|probes| probes.vhost = Err(libc::EACCES));
        let found = tree.finding(check, "selinux");
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(
            found.evidence.contains("this process is system_u:system_r:nbd_t:s0;"),
            "{found:?}"
        );
        assert!(found.hint.unwrap().to_string().contains("semodule -DB"));
        // For another user the file mode may be the reason.
        let tree = tree.probe(|probes| probes.user = "ann".into());
        assert_eq!(tree.finding(check, "selinux").verdict, Verdict::Ok);
    }
}
