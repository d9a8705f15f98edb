//! `agent qemu ...` with the real QEMU, whose machines have no guest, and with a simulated one that
//! follows a script.

mod hostile;
mod serve;
mod words;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use qemu::qmp::{Client, Limits};
use serde_json::{Value, json};
use support::qemu::{
    Machine, VhostUser,
    scripted::{
        Act::{Close, Event, Expect, Idle, Reply, Say},
        Peer, greeted,
    },
};

const BINARY: &str = env!("CARGO_BIN_EXE_agent");
const PORT: &str = "pcie-root-port,id=port-a,chassis=1";

fn agent(words: &[&str]) -> Output {
    Command::new(BINARY).arg("qemu").args(words).output().unwrap()
}

/// The output of a command that succeeded.
fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line of a command that failed.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("agent: error: "), "{stderr}");
    stderr.trim_end().to_owned()
}

fn qmp_of(machine: &Machine) -> String {
    machine.qmp().display().to_string()
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_machine_without_a_device_gets_one_where_the_kernel_has_vhost_vsock() {
    let machine = Machine::start("q35", &[PORT]);
    let qmp = qmp_of(&machine);
    assert!(said(&agent(&["list", "--qmp", &qmp])).starts_with("no vsock device in pc-q35-"));
    let attached = agent(&["attach", "--qmp", &qmp, "--json"]);
    if Path::new("/dev/vhost-vsock").exists() {
        let object = json_of(&said(&attached));
        assert_eq!(object["id"], "vsock0");
        assert!(object["cid"].as_u64().unwrap() >= 3);
    } else {
        let line = refused(&attached);
        assert!(line.contains("cannot open /dev/vhost-vsock: No such file"), "{line}");
        assert!(line.contains("'agent doctor' says more"), "{line}");
    }
}

#[test]
fn a_device_that_is_there_is_listed_kept_and_detached() {
    let backend = VhostUser::serve();
    let mut arguments = backend.arguments();
    arguments.extend(["-name", "vm1"].map(str::to_owned));
    let devices = [PORT, "vhost-user-vsock-pci,id=other,bus=port-a,chardev=vsock"];
    let machine = Machine::start_with("q35", &devices, &arguments);
    let qmp = qmp_of(&machine);
    let listed = json_of(&said(&agent(&["list", "--qmp", &qmp, "--json"])));
    assert_eq!(listed["name"], "vm1");
    let device = json!({
        "id": "other",
        "path": "/machine/peripheral/other",
        "driver": "vhost-user-vsock-pci",
        "backend": "vhost-user",
        "cid": null,
    });
    assert_eq!(listed["devices"], json!([device]));
    let words = said(&agent(&["list", "--qmp", &qmp]));
    assert_eq!(words, "other: vhost-user-vsock-pci, CID known to its vhost-user process\n");

    let line = refused(&agent(&["attach", "--qmp", &qmp]));
    assert!(line.contains("has a vsock device already: vhost-user-vsock-pci 'other'"), "{line}");
    let line = refused(&agent(&["detach", "--qmp", &qmp, "--id", "mine"]));
    assert!(line.contains("--id mine: no vsock device"), "{line}");
    let line = refused(&agent(&["detach", "--qmp", &qmp, "--timeout", "200ms"]));
    assert!(line.contains("has not released vhost-user-vsock-pci 'other'"), "{line}");
}

#[test]
fn a_machine_without_a_port_is_told_how_to_get_one() {
    let machine = Machine::start("q35", &[]);
    let qmp = qmp_of(&machine);
    let line = refused(&agent(&["attach", "--qmp", &qmp]));
    assert!(line.contains("no free PCI Express port: it has none at all"), "{line}");
    assert!(line.contains("'-device pcie-root-port,id=vsock-port,chassis=99'"), "{line}");
}

#[test]
fn a_fake_qemu_with_a_device_is_left_alone_and_gives_it_back() {
    let there = "[{\"name\": \"vsock0\", \"type\": \"child<vhost-vsock-pci>\"}]";
    let listing =
        || [Expect("qom-list"), Reply(there), Expect("qom-list"), Reply("[]"), Expect("qom-get")];
    let script = listing().into_iter().chain([Reply("4711"), Idle]).collect();
    let peer = Peer::play(greeted(script));
    let line = refused(&agent(&["attach", "--qmp", peer.path().to_str().unwrap()]));
    assert!(line.contains("vhost-vsock-pci 'vsock0' with CID 4711; use that one"), "{line}");

    let ending = [
        Reply("4711"),
        Expect("device_del"),
        Reply("{}"),
        Event("RTC_CHANGE"),
        Say("{\"event\": \"DEVICE_DELETED\", \"data\": {\"path\": \"/other\"}}\n".into()),
        Say("{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"vsock0\", \
             \"path\": \"/machine/peripheral/vsock0\"}}\n"
            .into()),
        Idle,
    ];
    let peer = Peer::play(greeted(listing().into_iter().chain(ending).collect()));
    let detached = said(&agent(&["detach", "--qmp", peer.path().to_str().unwrap()]));
    assert_eq!(detached, "detached vsock0: vhost-vsock-pci, CID 4711\n");

    let refusing = [
        Reply("4711"),
        Expect("device_del"),
        Reply("{}"),
        Say("{\"event\": \"DEVICE_UNPLUG_GUEST_ERROR\", \"data\": \
             {\"path\": \"/machine/peripheral/vsock0\"}}\n"
            .into()),
        Idle,
    ];
    let peer = Peer::play(greeted(listing().into_iter().chain(refusing).collect()));
    let line = refused(&agent(&["detach", "--qmp", peer.path().to_str().unwrap()]));
    assert!(line.contains("the guest does not give vhost-vsock-pci 'vsock0'"), "{line}");
}

#[test]
fn a_socket_without_a_working_qemu_is_one_line_of_error() {
    for (script, part) in [
        (vec![Say("SSH-2.0-x\r\n".into()), Close], "'SSH-2.0-x\\r', which is no message of QMP"),
        (vec![Close], "QEMU closed the connection"),
        (greeted(vec![Expect("qom-list"), Close]), "qom-list over the QMP socket"),
    ] {
        let peer = Peer::play(script);
        let line = refused(&agent(&["attach", "--qmp", peer.path().to_str().unwrap()]));
        assert!(line.contains(part), "{line}");
    }
    let line = refused(&agent(&["list", "--qmp", "/nonexistent"]));
    assert!(line.contains("/nonexistent: No such file") && line.contains("-qmp unix:"), "{line}");
}

#[tokio::test]
async fn watch_prints_the_life_of_a_machine_to_its_end() {
    // A QMP socket serves one client. The agent connects to a second socket.
    let dir = tempfile::tempdir().unwrap();
    let qmp = dir.path().join("second.sock").display().to_string();
    let second = ["-qmp".to_owned(), format!("unix:{qmp},server=on,wait=off")];
    let mut machine = Machine::start_with("q35", &[], &second);
    let mut client = Client::connect(machine.qmp(), Limits::default()).await.unwrap();
    let mut watch = Command::new(BINARY)
        .args(["qemu", "watch", "--qmp", &qmp])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || json_of(&lines.next().unwrap().unwrap());
    assert_eq!(next(), json!({ "watching": qmp }));
    client.execute(&qapi::qmp::system_reset {}).await.unwrap();
    let reset = next();
    assert_eq!(reset["event"], "RESET");
    assert_eq!(reset["data"], json!({ "guest": false, "reason": "host-qmp-system-reset" }));
    assert!(reset["seconds"].as_i64().unwrap() > 1_600_000_000, "{reset}");
    client.execute(&qapi::qmp::quit {}).await.unwrap();
    let shutdown = next();
    assert_eq!(
        (&shutdown["event"], &shutdown["data"]["reason"]),
        (&json!("SHUTDOWN"), &json!("host-qmp-quit"))
    );
    assert_eq!(next(), json!({ "end": "QEMU closed the connection" }));
    assert!(watch.wait().unwrap().success());
    machine.assert_ends();
}
