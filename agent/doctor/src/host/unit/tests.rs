//! The findings from the output of `systemctl show`.

use super::*;
use crate::{
    host::{device, socket},
    run::NoAnswer,
    testing::Tree,
};

/// The shipped unit, with a shortened list of calls.
const HARDENED: &str = "\
Id=agent.service
LoadState=loaded
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_VSOCK
SystemCallFilter=accept accept4 bind close listen read socket write
SystemCallErrorNumber=1
PrivateDevices=yes
DevicePolicy=closed
";

fn shown(text: &str) -> Tree {
    let units = Asked { program: "systemctl".into(), answer: Ok(text.into()) };
    Tree::new("6.1.0").probe(|probes| probes.units = Some(units))
}

fn of_nbd(lines: &str) -> Tree {
    shown(&format!("Id=nbd.service\nLoadState=loaded\n{lines}"))
        .file("/proc/self/cgroup", "0::/system.slice/nbd.service\n")
        .file("/proc/net/protocols", "AF_VSOCK 1240 0\n")
}

#[test]
fn the_service_of_a_process_is_found_in_its_group() {
    for (groups, name, user) in [
        ("0::/system.slice/nbd@1.service\n", Some("nbd@1.service"), false),
        ("1:name=systemd:/system.slice/nbd.service\n0::/\n", Some("nbd.service"), false),
        ("9:name=systemd:/\n0::/system.slice/nbd.service\n", Some("nbd.service"), false),
        ("0::/system.slice/nbd.service/sub\n", Some("nbd.service"), false),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/nbd.service\n",
            Some("nbd.service"),
            true,
        ),
        ("0::/user.slice/user-1000.slice/user@1000.service/x.scope\n", None, false),
        ("0::/user.slice/user-0.slice/session-1.scope\n", None, false),
        ("0::/\n", None, false),
        ("", None, false),
    ] {
        let own = Own::of(groups);
        assert_eq!(own.as_ref().map(|own| own.name.as_str()), name, "{groups}");
        assert_eq!(own.is_some_and(|own| own.is_users()), user, "{groups}");
    }
}

#[test]
fn the_unit_that_is_shipped_lets_the_agent_serve() {
    let text = format!("Id=other.service\nLoadState=not-found\n\n{HARDENED}\n{HARDENED}");
    let findings = check(&shown(&text).machine());
    let [found] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!((found.verdict, found.checked.as_str()), (Verdict::Ok, "what agent.service may do"));
    assert!(found.evidence.contains("PrivateDevices=yes keeps /dev/vhost-vsock"), "{found:?}");
    assert!(found.meaning.contains("which only --qmp does"), "{found:?}");
}

#[test]
fn a_filter_of_families_differs_from_one_of_calls() {
    const FAMILIES: &str = "RestrictAddressFamilies= keeps AF_VSOCK";
    const CALLS: &str = "SystemCallFilter= keeps";
    let unit = |lines: &str| {
        shown(&format!("Id=agent@7.service\nLoadState=loaded\n{lines}")).finding(check, "unit")
    };
    for (lines, said, not, hint) in [
        ("RestrictAddressFamilies=AF_UNIX\n", FAMILIES, CALLS, FAMILY),
        ("RestrictAddressFamilies=~AF_VSOCK AF_PACKET\n", FAMILIES, CALLS, FAMILY),
        // systemctl shows "none" in this way.
        ("RestrictAddressFamilies=\n", FAMILIES, CALLS, FAMILY),
        ("SystemCallFilter=read write\n", "keeps socket() from it", FAMILIES, CALL),
        ("SystemCallFilter=~bind:13 mount\n", "keeps bind() from it", FAMILIES, CALL),
        ("SystemCallFilter=accept bind listen socket\n", "keeps accept4()", FAMILIES, CALL),
    ] {
        let found = unit(lines);
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.evidence.contains(said), "{said}: {found:?}");
        assert!(!found.evidence.contains(not), "{not}: {found:?}");
        let edit = found.hint.unwrap().to_string();
        assert!(edit.contains("'systemctl edit agent@7.service'") && edit.contains(hint), "{edit}");
    }
    for lines in [
        "",
        "RestrictAddressFamilies=~\nSystemCallFilter=~\n",
        "RestrictAddressFamilies=~AF_PACKET\nSystemCallFilter=~@mount\n",
    ] {
        assert_eq!(unit(lines).verdict, Verdict::Ok, "{lines}");
    }
    let both = unit("RestrictAddressFamilies=AF_UNIX\nSystemCallFilter=read\n");
    assert!(both.meaning.contains("EAFNOSUPPORT") && both.meaning.contains("SIGSYS"), "{both:?}");
    let eperm = unit("SystemCallFilter=read\nSystemCallErrorNumber=1\n");
    assert!(eperm.meaning.contains("EPERM"), "{eperm:?}");
    let kill = unit("SystemCallFilter=read\nSystemCallErrorNumber=2147483646\n");
    assert!(kill.meaning.contains("SIGSYS"), "{kill:?}");
}

#[test]
fn three_settings_keep_the_device_from_a_unit() {
    for (lines, why) in [
        ("DevicePolicy=auto\n", None),
        ("PrivateDevices=yes\nDeviceAllow=/dev/vhost-vsock rw\n", Some("PrivateDevices=yes")),
        ("DevicePolicy=closed\n", Some("DevicePolicy=closed")),
        ("DevicePolicy=strict\nDeviceAllow=/dev/null rw\n", Some("DevicePolicy=strict")),
        ("DevicePolicy=auto\nDeviceAllow=/dev/sda rw\n", Some("DeviceAllow= without")),
        ("DevicePolicy=closed\nDeviceAllow=/dev/sda r\nDeviceAllow=/dev/vhost-vsock rw\n", None),
        ("DevicePolicy=closed\nDeviceAllow=char-misc rw\n", None),
    ] {
        let unit = Unit::parse(&format!("Id=x.service\nLoadState=loaded\n{lines}")).unwrap();
        let kept = unit.forbids_device();
        assert_eq!(kept.is_some(), why.is_some(), "{lines}");
        assert!(kept.unwrap_or_default().contains(why.unwrap_or_default()), "{lines}");
    }
}

#[test]
fn a_failure_in_the_own_service_names_the_property() {
    let refused = |errno, lines: &str| {
        of_nbd(lines).probe(|probes| probes.socket = Err(errno)).finding(socket::check, "socket")
    };
    for (errno, lines, meaning) in [
        (
            libc::EAFNOSUPPORT,
            "RestrictAddressFamilies=AF_UNIX\n",
            "RestrictAddressFamilies= of nbd",
        ),
        (libc::EPERM, "SystemCallFilter=read\n", "SystemCallFilter= of nbd.service"),
        (libc::EACCES, "SystemCallFilter=~socket:13\n", "SystemCallFilter= of nbd.service"),
        // The unit allows it, so something else forbids it.
        (libc::EPERM, "RestrictAddressFamilies=AF_VSOCK\n", "a security module or a filter"),
    ] {
        let found = refused(errno, lines);
        assert_eq!(found.verdict, Verdict::Fault);
        assert!(found.meaning.contains(meaning), "{meaning}: {found:?}");
    }
    let bind = of_nbd("SystemCallFilter=~bind\n").probe(|probes| probes.bind = Err(libc::EPERM));
    let found = bind.finding(socket::check, "port");
    assert!(found.meaning.contains("SystemCallFilter= of nbd.service keeps bind()"), "{found:?}");
}

/// In the shipped service systemctl does not reach systemd.
#[test]
fn a_private_dev_is_seen_without_systemctl() {
    let mounts = "30 1 0:28 / / rw - ext4 /dev/vda rw\n31 30 0:5 / /dev rw - devtmpfs udev rw\n";
    let private = "99 30 0:50 / /dev ro,nosuid,noexec - tmpfs tmpfs rw,size=4096k\n";
    let inside = |mounts: &str| {
        let tree = Tree::new("6.1.0").file("/proc/self/cgroup", "0::/system.slice/agent.service\n");
        let tree = tree.file("/proc/self/mountinfo", mounts).modules(&[("vhost_vsock", 0)]);
        let tree = tree.file("/sys/class/misc/vhost-vsock/dev", "10:241\n");
        let tree = tree.probe(|probes| probes.vhost = Err(libc::ENOENT));
        tree.finding(device::check, "vhost-vsock")
    };
    let found = inside(&format!("{mounts}{private}"));
    assert_eq!(found.verdict, Verdict::Ok, "{found:?}");
    assert!(found.evidence.contains("agent.service has PrivateDevices=yes"), "{found:?}");
    assert!(inside(mounts).meaning.contains("node was removed"));
}

/// QEMU opens the device, and does not run in the agent's service.
#[test]
fn the_agents_service_serves_without_the_device() {
    let inside = |name: &str, lines: &str, errno| {
        let tree = shown(&format!("Id={name}\nLoadState=loaded\n{lines}")).node(0o660, "kvm");
        let tree = tree.file("/proc/self/cgroup", &format!("0::/system.slice/{name}\n"));
        tree.probe(|probes| (probes.vhost, probes.user) = (Err(errno), "64748".into()))
    };
    for (errno, lines, evidence, hint) in [
        (libc::ENOENT, "PrivateDevices=yes\n", "has PrivateDevices=yes", "DeviceAllow=/dev/vhost"),
        (libc::EPERM, "DevicePolicy=closed\n", "has DevicePolicy=closed", "DeviceAllow=/dev/vhost"),
        (libc::EACCES, "", "64748 may not", "SupplementaryGroups=kvm"),
    ] {
        let agents = || inside("agent@one.service", lines, errno);
        let qemus = inside("vm.service", lines, errno);
        for (tree, verdict) in [(agents(), Verdict::Warning), (qemus, Verdict::Fault)] {
            let found = tree.finding(device::check, "vhost-vsock");
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert!(found.evidence.contains(evidence), "{found:?}");
            assert!(found.hint.unwrap().to_string().contains(hint));
        }
        if errno != libc::EACCES {
            let loaded = agents().file("/sys/class/misc/vhost-vsock/dev", "10:241\n");
            assert_eq!(loaded.finding(device::check, "vhost-vsock").verdict, Verdict::Ok);
        }
    }
}

#[test]
fn a_systemctl_that_does_not_answer_is_named() {
    let tree = Tree::new("6.1.0").file("/proc/self/cgroup", "0::/system.slice/nbd.service\n");
    assert_eq!(tree.finding(check, "unit").evidence, "there is no systemctl here");
    let failed = Asked { program: "systemctl".into(), answer: Err(NoAnswer("no bus".into())) };
    let tree = tree.probe(|probes| probes.units = Some(failed));
    let found = tree.finding(check, "unit");
    assert_eq!(found.verdict, Verdict::Ok);
    assert!(found.evidence.ends_with("does not tell: no bus"), "{found:?}");
    let found = Tree::new("6.1.0").finding(check, "unit");
    assert!(found.meaning.contains("in no service"), "{found:?}");
}
