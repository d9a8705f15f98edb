//! `-u` and `-g`: every thread has changed its user, nothing of the old user is left, and
//! impossible changes are reported.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use nix::unistd::{User, geteuid};
use support::{
    agent::Agent,
    client::{greeted, opened},
    process::{fails, fails_with},
};
use tempfile::TempDir;

use crate::BINARY;

/// The lines of /proc/PID/task/*/status with the identity of a thread, without duplicates.
fn identities(agent: &Agent) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.id())).unwrap();
    let mut found = BTreeSet::new();
    for task in tasks {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let lines = status.lines().filter(|line| {
            ["Uid:", "Gid:", "Groups:", "CapEff:"].iter().any(|key| line.starts_with(key))
        });
        found.extend(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    found
}

fn four(key: &str, id: u32) -> String {
    format!("{key}: {id} {id} {id} {id}")
}

#[test]
fn every_thread_becomes_the_user() {
    if !geteuid().is_root() {
        let (code, stderr) = fails_with(BINARY, "-u root -U - null");
        assert_eq!(code, 1);
        assert!(stderr.contains("-u/--user root") && stderr.contains("only root may"), "{stderr}");
        return;
    }
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    for (words, uid, gid) in [
        ("-u nobody", uid, gid),
        (&*format!("--user {uid} --group {gid}"), uid, gid),
        ("-u nobody -g 12345", uid, 12345),
        ("-g 12345", 0, 12345),
        ("-u 54321 -g nogroup", 54321, gid),
    ] {
        let mut agent =
            Agent::start(BINARY, &format!("{words} -U {{}}/s --listen unix:- memory 1M"));
        let mut expected =
            BTreeSet::from([four("Uid", uid), four("Gid", gid), format!("Groups: {gid}")]);
        let mut found = identities(&agent);
        found.retain(|line| line != "CapEff: 0000000000000000");
        if uid == 0 {
            found.retain(|line| !line.starts_with("CapEff"));
        }
        expected.retain(|line| !found.contains(line));
        assert!(expected.is_empty() && found.len() == 3, "{words}: {found:?}");
        assert_eq!(opened(&mut greeted(&agent.path("s"))), 1 << 20);
        agent.end();
    }
}

#[test]
fn files_that_the_new_user_may_remove_are_removed_and_the_rest_is_named() {
    if !geteuid().is_root() {
        return;
    }
    // Every user may create files there, as in /tmp.
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let words = |socket: &str| {
        let dir = dir.path().display();
        format!("-u nobody -P {dir}/pid --listen unix:- {socket} null")
    };
    let mut command = Command::new("env");
    command.arg(format!("TMPDIR={}", dir.path().display())).arg(BINARY);
    let mut agent = Agent::start_by(command, &words(""));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "a directory and a pid file");
    agent.end();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    // Only root can remove root's socket from a sticky directory.
    let socket = format!("-U {}/socket", dir.path().display());
    let mut agent = Agent::start(BINARY, &words(&socket));
    agent.wait_for_line("/socket will stay behind");
    let lines = agent.end();
    assert!(dir.path().join("socket").exists(), "{lines:?}");
}

#[test]
fn an_unknown_user_is_one_line_before_anything_is_opened() {
    for (words, parts) in [
        ("-u no-such-user", &["-u/--user 'no-such-user'", "getent passwd"][..]),
        ("-g no-such-group", &["-g/--group 'no-such-group'", "getent group"]),
        ("--user=54321", &["-u/--user 54321", "add -g GROUP"]),
    ] {
        let (code, stderr) = fails_with(BINARY, &format!("{words} -U /nonexistent/s null"));
        assert_eq!(code, 1, "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{words}: {stderr}");
    }
    if !fs::exists("/sys/fs/selinux/enforce").unwrap() {
        let (code, stderr) =
            fails_with(BINARY, "--selinux-label=system_u:object_r:x_t:s0 -U - null");
        assert_eq!(code, 1);
        assert!(stderr.contains("--selinux-label: SELinux is not enabled"), "{stderr}");
    }
}

#[test]
fn only_root_becomes_another() {
    if !geteuid().is_root() {
        return;
    }
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // The directory of the built binary may be accessible only to root.
    let binary = dir.path().join("agent");
    fs::copy(BINARY, &binary).unwrap();
    let agent = |words: &str| {
        let mut command = Command::new(&binary);
        command.uid(54321).gid(54321).current_dir("/").env("TMPDIR", dir.path());
        command.args(words.split_whitespace()).args(["-U", "-", "null"]);
        command
    };
    for words in ["-u root", "-g root", "-u nobody", "-u 54321 -g root"] {
        let (code, stderr) = fails(&mut agent(words));
        assert_eq!(code, 1, "{words}: {stderr}");
        let errors = stderr.lines().filter(|line| line.starts_with("agent: error: "));
        let errors: Vec<_> = errors.collect();
        assert_eq!(errors.len(), 1, "{stderr}");
        assert!(errors[0].contains(words.split(' ').next().unwrap()), "{stderr}");
        assert!(errors[0].contains("only root may"), "{stderr}");
    }
    // More than that is locked before the first page of a disk.
    let mut limited = Command::new("sh");
    limited.args(["-c", r#"ulimit -l 64; exec "$@""#, "sh"]).arg(&binary);
    limited.uid(54321).gid(54321).current_dir("/").env("TMPDIR", dir.path());
    let (code, stderr) = fails(limited.args(["--swap", "--run", "true", "null"]));
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("agent: error: --swap: ") && stderr.contains("RLIMIT_MEMLOCK"),
        "{stderr}"
    );

    let status = agent("-u 54321 -g 54321").args(["--run", "true"]).status().unwrap();
    assert!(status.success(), "who asks for what it is gets it");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the copy of the binary alone");
}
