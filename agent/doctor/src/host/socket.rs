//! Whether this process may have a vsock socket, and whether its port is free.

use vsock_cid::Cid;

use super::{
    container::{Container, container},
    unit,
};
use crate::{Finding, Verdict, hint::Hint, machine::Machine, probes::Probes, service::Own};

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let mut findings = vec![family(machine)];
    if machine.probes.socket.is_ok() {
        findings.push(port(machine));
    }
    findings
}

fn name(errno: i32) -> String {
    match errno {
        libc::EAFNOSUPPORT => "EAFNOSUPPORT".into(),
        libc::EPERM => "EPERM".into(),
        libc::EACCES => "EACCES".into(),
        _ => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

fn family(machine: &Machine) -> Finding {
    let checked = "socket(AF_VSOCK) in this process";
    let finding = |verdict, evidence| Finding::new("socket", verdict, checked, evidence);
    let Err(errno) = machine.probes.socket else {
        return finding(Verdict::Ok, "it succeeds".into()).meaning("nothing forbids vsock here");
    };
    let mut evidence = format!("it fails with {}", name(errno));
    let status = machine.read("/proc/self/status").unwrap_or_default();
    let filter = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    let filtered = filter.is_some_and(|mode| mode.trim() == "2");
    if filtered {
        evidence += "; this process is under a seccomp filter";
    }
    let refused = matches!(errno, libc::EPERM | libc::EACCES);
    if !refused && !machine.knows_vsock() {
        return finding(Verdict::Fault, evidence)
            .meaning("AF_VSOCK is unknown to this kernel, or its module is not loaded")
            // The finding about the device says whether the module may be loaded, and has the steps.
            .hint(Hint::advice(
                "'modprobe vhost_vsock' on a VM host ('agent doctor' says what keeps it out), \
                 'modprobe vsock' on a guest's side",
            ));
    }
    if machine.knows_vsock() {
        evidence += "; the kernel knows AF_VSOCK";
    }
    let finding = finding(Verdict::Fault, evidence);
    let own = unit::own(machine);
    let shown = unit::own_shown(machine).map(|(_, unit)| unit);
    // systemd's filter of address families refuses with EAFNOSUPPORT; its filter of system calls and
    // those of containers refuse with EPERM.
    if let Some(Container { kind, .. }) = container(machine)
        && (refused || own.is_none())
        && shown.as_ref().is_none_or(|unit| unit.forbidden_call().is_none())
    {
        return finding
            .meaning(format!("the seccomp profile of the container ({kind}) forbids AF_VSOCK"))
            .hint(Hint::advice(
                "start it with a profile that allows socket(AF_VSOCK) (docker and podman: \
                 '--security-opt seccomp=PROFILE.json'), or run the agent on the host",
            ));
    }
    if let Some(own) = own {
        let (families, calls) = match &shown {
            Some(unit) => (unit.forbids_family(), unit.forbidden_call().is_some()),
            // Where systemd cannot be asked, the error tells the two filters apart.
            None => (errno == libc::EAFNOSUPPORT, refused && filtered),
        };
        let (name, systemctl) = (&own.name, own.systemctl());
        if families && !(refused && calls) {
            return finding
                .meaning(format!("RestrictAddressFamilies= of {name} keeps AF_VSOCK from it"))
                .hint(unit::edit(systemctl, name, unit::FAMILY));
        }
        if calls {
            return finding
                .meaning(format!("SystemCallFilter= of {name} keeps socket() from it"))
                .hint(unit::edit(systemctl, name, unit::CALL));
        }
    }
    if filtered {
        return finding.meaning("a seccomp filter of this process forbids AF_VSOCK").hint(
            Hint::advice("allow socket(AF_VSOCK) in the filter of the program that starts it"),
        );
    }
    finding.meaning("a security module or a filter forbids AF_VSOCK to this process").hint(
        Hint::advice("see the denials of SELinux and AppArmor ('agent doctor' as root lists them)"),
    )
}

fn port(machine: &Machine) -> Finding {
    let port = machine.probes.port;
    let finding = |verdict, evidence: String| of_port(port, verdict, evidence);
    match machine.probes.bind {
        Ok(()) => finding(Verdict::Ok, "it succeeds".into()).meaning("an agent can listen there"),
        Err(libc::EADDRINUSE) => of_systemd(machine).unwrap_or_else(|| taken(machine)),
        Err(libc::EACCES) if port < 1024 => finding(Verdict::Fault, "it fails with EACCES".into())
            .meaning("vsock ports below 1024 need CAP_NET_BIND_SERVICE")
            .hint(Hint::advice("choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE")),
        Err(errno)
            if let Some((own, unit)) = unit::own_shown(machine)
                && let Some(call) = unit.forbidden_call() =>
        {
            finding(Verdict::Fault, format!("it fails with {}", name(errno)))
                .meaning(format!("SystemCallFilter= of {} keeps {call}() from it", own.name))
                .hint(unit::edit(own.systemctl(), &own.name, unit::CALL))
        }
        Err(errno) => finding(Verdict::Fault, format!("it fails with {}", name(errno)))
            .meaning("AF_VSOCK is there and does not let this process listen")
            .hint(Hint::advice("see the denials of SELinux and AppArmor")),
    }
}

fn of_port(port: u32, verdict: Verdict, evidence: String) -> Finding {
    Finding::new("port", verdict, &format!("binding vsock port {port}"), evidence)
}

fn taken(machine: &Machine) -> Finding {
    let port = machine.probes.port;
    let holder = holder(machine.probes.listening.as_deref().unwrap_or_default(), port);
    if let Some(line) = holder.as_ref().filter(|line| line.contains("((\"agent\",")) {
        return of_port(port, Verdict::Ok, line.clone()).meaning("an agent listens there already");
    }
    let evidence = holder
        .map_or_else(|| "it is taken".to_owned(), |line| format!("it is taken, says ss: {line}"));
    of_port(port, Verdict::Fault, evidence)
        .meaning("another process, or a listener named before this one, has the port")
        .hint(Hint::advice(format!(
            "stop that ('ss -lp --vsock' names it, look for :{port}), or choose another port (--port)"
        )))
}

/// The finding about a port on which systemd listens for a socket unit. The agent's own unit starts
/// the agent with the first guest.
fn of_systemd(machine: &Machine) -> Option<Finding> {
    let port = machine.probes.port;
    let finding = |verdict, evidence: String| of_port(port, verdict, evidence);
    let unit = machine.probes.sockets.as_deref().and_then(|text| socket_unit(text, port));
    let Some(unit) = unit else {
        // In the agent's service systemd has passed the socket, and cannot be asked.
        let own = unit::own(machine).filter(Own::is_agents)?;
        return Some(
            finding(Verdict::Ok, format!("it is taken, and this is {}", own.name))
                .meaning("its socket unit, or the agent in it, listens there"),
        );
    };
    if unit.starts_with("agent.") || unit.starts_with("agent@") {
        return Some(
            finding(Verdict::Ok, format!("systemd listens there for {unit}"))
                .meaning("the agent starts with the first guest that connects"),
        );
    }
    Some(
        finding(Verdict::Fault, format!("systemd listens there for {unit}"))
            .meaning("another socket unit has the port")
            .hint(Hint::advice(format!(
                "'systemctl stop {unit}' ('systemctl disable {unit}' for good), or choose another \
                 port (--port)"
            ))),
    )
}

/// The unit that listens on a vsock port, from the output of `systemctl list-sockets`, whose columns
/// are LISTEN, UNIT and ACTIVATES.
fn socket_unit(sockets: &str, port: u32) -> Option<&str> {
    let end = format!(":{port}");
    let line = sockets.lines().find(|line| {
        let listen = line.split_whitespace().next().unwrap_or_default();
        listen.starts_with("vsock:") && listen.ends_with(&end)
    })?;
    line.split_whitespace().find(|word| word.ends_with(".socket"))
}

/// The line of `ss -lpnH --vsock` about the port.
fn holder(listening: &str, port: u32) -> Option<String> {
    let end = format!(":{port}");
    let line = listening.lines().find(|line| {
        line.split_whitespace().nth(4).is_some_and(|address| address.ends_with(&end))
    })?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// How to fix a listener on `cid` (`None`: all) and `port` that failed with `errno`: the hint that `agent
/// doctor` prints. `None` where the error has nothing to do with vsock.
pub fn hint_of_bind(errno: i32, cid: Option<Cid>, port: u32) -> Option<String> {
    hint_on("/", errno, cid, port)
}

fn hint_on(root: &str, errno: i32, cid: Option<Cid>, port: u32) -> Option<String> {
    let mut probes = Probes { port, ..Probes::default() };
    let found = match errno {
        libc::EADDRNOTAVAIL => {
            let cid = cid?;
            return Some(format!(
                "CID {cid} is none of this machine's: leave it out (vsock:PORT) to listen on all; \
                 2 is local only where vhost_vsock is loaded, 1 where vsock_loopback is; 'agent \
                 doctor' says more"
            ));
        }
        // Even where an agent has the port, this agent cannot listen on it.
        libc::EADDRINUSE => taken(&Machine::new(root, probes)),
        libc::EACCES if port < 1024 => {
            probes.bind = Err(errno);
            self::port(&Machine::new(root, probes))
        }
        libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ENODEV | libc::EPERM | libc::EACCES => {
            probes.socket = Err(errno);
            family(&Machine::new(root, probes))
        }
        _ => return None,
    };
    let Finding { meaning, hint, .. } = found;
    Some(format!("{meaning}: {}; 'agent doctor' says more", hint?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tree;

    const KNOWN: (&str, &str) = ("/proc/net/protocols", "AF_VSOCK 1240 0\n");

    #[test]
    fn each_refusal_of_the_family_names_its_cause() {
        let tree = |errno| Tree::new("6.1.0").probe(|probes| probes.socket = Err(errno));
        let known = |errno| tree(errno).file(KNOWN.0, KNOWN.1);
        let filtered = |tree: Tree| tree.file("/proc/self/status", "Name:\tagent\nSeccomp:\t2\n");
        for (tree, meaning, hint) in [
            (tree(libc::EAFNOSUPPORT), "unknown to this kernel", "modprobe vhost_vsock"),
            (
                filtered(known(libc::EAFNOSUPPORT))
                    .file("/proc/self/cgroup", "0::/system.slice/nbd@1.service\n")
                    .file("/run/systemd/container", "lxc\n"),
                "RestrictAddressFamilies= of nbd@1.service",
                "RestrictAddressFamilies=AF_VSOCK",
            ),
            (
                filtered(known(libc::EAFNOSUPPORT))
                    .file("/proc/self/cgroup", "0::/user.slice/user@1000.service/x.scope\n"),
                "a seccomp filter of this process",
                "allow socket(AF_VSOCK)",
            ),
            (
                filtered(known(libc::EPERM))
                    .file("/proc/self/cgroup", "0::/system.slice/nbd@1.service\n"),
                "SystemCallFilter= of nbd@1.service",
                "SystemCallFilter=@network-io",
            ),
            (known(libc::EPERM).docker(), "container (docker)", "seccomp=PROFILE"),
            (known(libc::EACCES), "a security module or a filter", "SELinux and AppArmor"),
        ] {
            let found = tree.finding(check, "socket");
            assert_eq!(found.verdict, Verdict::Fault);
            assert!(found.meaning.contains(meaning), "{meaning}: {found:?}");
            assert!(found.hint.unwrap().to_string().contains(hint), "{hint}");
            assert_eq!(check(&tree.machine()).len(), 1, "no port without a socket");
        }
        assert_eq!(Tree::new("6.1.0").finding(check, "socket").verdict, Verdict::Ok);
    }

    #[test]
    fn a_port_that_is_taken_names_its_holder() {
        let taken = |listening: &str| {
            let listening = Some(listening.to_owned());
            let tree = Tree::new("6.1.0").probe(|probes| {
                (probes.bind, probes.listening) = (Err(libc::EADDRINUSE), listening);
            });
            tree.finding(check, "port")
        };
        let found = taken("v_str LISTEN 0 0  *:10809   *:*  users:((\"nbdkit\",pid=7,fd=4))\n");
        assert_eq!(found.verdict, Verdict::Fault);
        assert!(found.evidence.contains("nbdkit"), "{found:?}");
        let found = taken("v_str LISTEN 0 0  *:10809   *:*  users:((\"agent\",pid=7,fd=4))\n");
        assert_eq!(found.verdict, Verdict::Ok);
        let found = taken("v_str LISTEN 0 0  *:1080   *:*  users:((\"agent\",pid=7,fd=4))\n");
        assert_eq!((found.verdict, found.evidence.as_str()), (Verdict::Fault, "it is taken"));
        let low =
            Tree::new("6.1.0").probe(|probes| (probes.bind, probes.port) = (Err(libc::EACCES), 80));
        assert!(low.finding(check, "port").meaning.contains("CAP_NET_BIND_SERVICE"));
    }

    #[test]
    fn a_port_that_systemd_holds_for_the_agent_is_ok() {
        let sockets = "/run/udev/control            systemd-udevd-control.socket systemd-udevd.service\n\
                       vsock:4294967295:10809       agent.socket                 agent.service\n\
                       vsock::22                    sshd-vsock.socket            sshd@.service\n";
        let taken = |port, sockets: Option<&str>| {
            let sockets = sockets.map(str::to_owned);
            Tree::new("6.1.0").probe(|probes| {
                (probes.bind, probes.port, probes.sockets) = (Err(libc::EADDRINUSE), port, sockets);
            })
        };
        let found = taken(10809, Some(sockets)).finding(check, "port");
        assert_eq!(found.verdict, Verdict::Ok);
        assert!(found.evidence.ends_with("for agent.socket"), "{found:?}");
        let found = taken(22, Some(sockets)).finding(check, "port");
        assert_eq!(found.verdict, Verdict::Fault);
        assert!(found.hint.unwrap().to_string().contains("systemctl stop sshd-vsock.socket"));
        assert_eq!(taken(809, Some(sockets)).finding(check, "port").verdict, Verdict::Fault);
        // In the agent's own service systemctl does not reach systemd.
        let inside =
            taken(10809, None).file("/proc/self/cgroup", "0::/system.slice/agent.service\n");
        assert_eq!(inside.finding(check, "port").verdict, Verdict::Ok);
    }

    #[test]
    fn an_error_of_a_listener_has_its_hint() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().to_str().unwrap();
        for (errno, cid, port, part) in [
            (libc::EADDRINUSE, None, 10809, "ss -lp --vsock"),
            (libc::EADDRNOTAVAIL, Some(Cid::new(77)), 10809, "CID 77 is none of this machine's"),
            (libc::EAFNOSUPPORT, None, 10809, "modprobe vhost_vsock"),
            (libc::ENODEV, None, 10809, "modprobe vhost_vsock"),
            (libc::EPERM, None, 10809, "forbids AF_VSOCK"),
            (libc::EACCES, None, 10809, "forbids AF_VSOCK"),
            (libc::EACCES, None, 80, "CAP_NET_BIND_SERVICE"),
        ] {
            let hint = hint_on(root, errno, cid, port).unwrap();
            assert!(hint.contains(part) && hint.ends_with("'agent doctor' says more"), "{hint}");
            assert!(!hint.contains('\n'), "{hint}");
        }
        assert_eq!(hint_on(root, libc::EMFILE, None, 10809), None);
    }
}
