//! `agent doctor` on this machine, in whatever state it is: its answers are consistent, and a port
//! that is in use is found.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
    time::{Duration, Instant},
};

use support::process::{assert_ends, pid_in};

use crate::BINARY;

fn doctor(words: &[&str]) -> Output {
    Command::new(BINARY).arg("doctor").args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_status_the_words_and_the_json_agree() {
    let json = doctor(&["--json"]);
    let object: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let findings = object["findings"].as_array().unwrap();
    let of = |key| findings.iter().map(move |finding| finding[key].as_str().unwrap());
    let verdicts: Vec<_> = of("verdict").collect();
    assert_eq!(object["served"], !verdicts.contains(&"fault"));
    assert_eq!(json.status.code(), Some(i32::from(object["served"] == false)));
    let ids: BTreeSet<_> = of("id").collect();
    for id in ["kernel", "vsock", "vhost-vsock", "transport", "cid", "socket", "limits", "qemu"] {
        assert!(ids.contains(id), "{id} in {ids:?}");
    }
    for finding in findings {
        for key in ["checked", "evidence", "meaning"] {
            assert!(finding[key].as_str().is_some_and(|said| !said.is_empty()), "{key}: {finding}");
        }
        assert!(finding["verdict"] != "fault" || finding["hint"].is_string(), "hint: {finding}");
    }
    let ways: Vec<_> = object["ways"].as_array().unwrap().iter().collect();
    let names: Vec<_> = ways.iter().map(|way| way["way"].as_str().unwrap()).collect();
    assert_eq!(names, ["vsock", "vhost-user", "hybrid"]);
    assert_eq!(ways[0]["works"], object["served"]);
    let words = doctor(&[]);
    assert_eq!(words.status.code(), json.status.code());
    let help = text(&doctor(&["--help"]).stdout);
    for id in ids {
        assert!(text(&words.stdout).contains(&format!(" {id}: ")), "{id}");
        let documented = |word: &str| word.trim_end_matches([',', ';']) == id;
        assert!(help.split_whitespace().any(documented), "{id} is documented");
    }
    for way in ways {
        let line = format!("way      {}: ", way["option"].as_str().unwrap());
        assert!(text(&words.stdout).contains(&line), "{line}");
    }
    assert_eq!(text(&words.stderr), "");
}

#[test]
fn a_wrong_command_line_is_one_line() {
    for words in [&["--yes"][..], &["--port", "x"], &["--port", "4294967296"], &["there"]] {
        let output = doctor(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let said = text(&output.stderr);
        assert!(said.starts_with("agent: error: ") && said.lines().count() == 1, "{said}");
    }
}

/// The listener is python's, so that it is not an agent that already listens there.
#[test]
fn a_port_that_is_taken_is_a_fault_and_the_agents_error_has_the_same_hint() {
    const TAKE: &str = r#"
import socket, subprocess, sys
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
s.bind((socket.VMADDR_CID_ANY, 0xffffffff))
s.listen()
port = str(s.getsockname()[1])
doctor = subprocess.run([sys.argv[1], "doctor", "--port", port], capture_output=True, text=True)
agent = subprocess.run([sys.argv[1], "--vsock", "-p", port, "null"], capture_output=True, text=True)
print(port, doctor.returncode, agent.returncode)
print(doctor.stdout, agent.stderr)
"#;
    let output = Command::new("/usr/bin/python3").args(["-c", TAKE, BINARY]).output().unwrap();
    let said = text(&output.stdout);
    let port: Vec<_> = said.lines().next().expect("python has vsock").split(' ').collect();
    assert_eq!(port[1..], ["1", "1"], "{said}");
    assert!(said.contains(&format!("fault    port: binding vsock port {}", port[0])), "{said}");
    let hint = format!("stop that ('ss -lp --vsock' names it, look for :{})", port[0]);
    assert_eq!(said.matches(&hint).count(), 2, "{said}");
    assert!(said.contains("'agent doctor' says more"), "{said}");
}

/// The programs that doctor runs may hang, print without end, and print control characters.
#[test]
fn a_program_that_hangs_or_floods_is_a_finding_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let hangs = format!("#!/bin/sh\nsh -c 'echo $$ > {}; sleep 1000'\n", pid.display());
    let escapes = "#!/bin/sh\nprintf 'error: \\033[2J\\302\\233m' >&2; exit 1\n";
    for (name, script) in [
        ("virsh", &*hangs),
        ("qemu-kvm", "#!/bin/sh\nexec yes\n"),
        ("ss", escapes),
        ("systemctl", escapes),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let start = Instant::now();
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let output = Command::new(BINARY).env("PATH", path).arg("doctor").output().unwrap();
    let said = text(&output.stdout);
    for part in ["no answer in 5s", "prints more than 4194304 bytes"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
    assert!(start.elapsed() < Duration::from_mins(1), "{:?}", start.elapsed());
    // Processes that virsh started end too.
    assert_ends(pid_in(&pid));
}
