//! `--qmp` tested from outside: what the agent reports when it starts, and while its machines start
//! and end. No guest connects here: vsock from guests is in the package `tests`.

use std::sync::mpsc;

use support::{
    agent::Agent,
    process::fails_with,
    qemu::{
        Machine,
        scripted::{
            Act::{Cue, Expect, Idle, Reply, Say},
            Peer, greeted,
        },
    },
};

use super::{BINARY, PORT};

#[test]
fn a_fake_machine_is_granted_and_withdrawn_in_the_log() {
    let (reset, cued) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let fake = Peer::play(greeted(vec![
        Expect("qom-get"),
        Reply("\"pc-q35-10.0-machine\""),
        Expect("query-pci"),
        Reply("[{}]"),
        Expect("query-name"),
        Reply("{\"name\": \"vm\\u001b[2J\"}"),
        Expect("qom-list"),
        Reply("[{\"name\": \"v\", \"type\": \"child<vhost-vsock-pci>\"}]"),
        Expect("qom-list"),
        Reply("[]"),
        Expect("qom-get"),
        Reply("4711"),
        Cue(cued),
        Say("{\"event\": \"RESET\"}\n".into()),
        Cue(ended),
        Say("{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-shutdown\"}}\n".into()),
        Idle,
    ]));
    let words = format!("--vsock --port 4294967295 --qmp {} memory 1M", fake.path().display());
    let agent = Agent::start(BINARY, &words);
    let granted =
        agent.wait_for_line("CID 4711 is granted to machine 'vm\\u{1b}[2J'").pop().unwrap();
    assert!(granted.contains(fake.path().to_str().unwrap()), "{granted}");
    reset.send(()).unwrap();
    agent.wait_for_line("starts again (unknown): its sessions are closed");
    end.send(()).unwrap();
    agent.wait_for_line("has ended (guest-shutdown): CID 4711 is not granted any more");
}

/// The first machine has its lease when the second one fails. Nothing of the agent remains.
#[test]
fn a_machine_that_cannot_be_wired_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd.sock").display().to_string();
    let listen = format!("--vsock --port 4294967295 --listen unix:{socket}");
    let (code, line) = fails_with(BINARY, &format!("{listen} --qmp /nonexistent memory 1M"));
    assert_eq!(code, 1);
    assert!(line.contains("the QMP socket /nonexistent: No such file"), "{line}");
    assert!(!std::path::Path::new(&socket).exists(), "its socket is gone");

    let machine = Machine::start("q35", &[PORT]);
    let qmp = machine.qmp().display();
    if !std::path::Path::new("/dev/vhost-vsock").exists() {
        let (code, line) = fails_with(BINARY, &format!("{listen} --qmp {qmp} memory 1M"));
        assert_eq!(code, 1);
        let last = line.lines().last().unwrap();
        assert!(last.contains("cannot be given a vsock device: cannot open /dev/vhost"), "{line}");
        assert!(last.contains("'agent doctor' says more"), "{line}");
    }
}
