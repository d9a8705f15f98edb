//! Compromised QEMUs: their text reaches a terminal or the log only as short, printable text, and nothing
//! waits for them.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use support::{
    DEADLINE,
    agent::Agent,
    client::{greeted as client, opened},
    process,
    qemu::scripted::{
        Act::{self, Cue, Expect, Flood, Idle, Reply, Say},
        Peer, greeted,
    },
};

use super::{BINARY, agent, refused, said};

/// Clears the screen, in C0 and C1; reverses the writing direction; ends the line.
const ESCAPES: &str = "\\u001b[2J\\u009b2J\\u202e\\r\\n\\u0007";

fn printable(text: &str) {
    let bad = |c: &char| c.is_control() && *c != '\n' || ('\u{202a}'..='\u{202e}').contains(c);
    assert_eq!(text.chars().find(bad), None, "{:?}", &text[..text.len().min(2000)]);
}

/// JSON that lives as long as the test's thread.
fn leak(text: String) -> &'static str {
    text.leak()
}

/// A machine with one device of that name, and further acts.
fn with_device(name: &str, more: Vec<Act>) -> Vec<Act> {
    let devices = format!("[{{\"name\": \"{name}\", \"type\": \"child<vhost-vsock-pci>\"}}]");
    let listing = [
        Expect("qom-list"),
        Reply(leak(devices)),
        Expect("qom-list"),
        Reply("[]"),
        Expect("qom-get"),
        Reply("4711"),
    ];
    listing.into_iter().chain(more).collect()
}

fn machine(name: &str, devices: Vec<Act>) -> Vec<Act> {
    let asked = [
        Expect("qom-get"),
        Reply(leak(format!("\"{name}-machine\""))),
        Expect("query-pci"),
        Reply("[{}]"),
        Expect("query-name"),
        Reply(leak(format!("{{\"name\": \"{name}\"}}"))),
    ];
    greeted(asked.into_iter().chain(devices).collect())
}

#[test]
fn ids_and_texts_are_printed_without_their_escape_sequences() {
    let long = format!("{ESCAPES}{}", "x".repeat(100_000));
    for name in [ESCAPES, &long] {
        let script = machine(name, with_device(name, vec![Idle]));
        let peer = Peer::play(script);
        let listed = said(&agent(&["list", "--qmp", peer.path().to_str().unwrap()]));
        printable(&listed);
        assert_eq!(listed.lines().count(), 1, "{listed:?}");
        assert!(listed.contains("CID 4711") && listed.len() < 3000, "{}", listed.len());

        let peer = Peer::play(machine(name, with_device(name, vec![Idle])));
        let listed = said(&agent(&["list", "--json", "--qmp", peer.path().to_str().unwrap()]));
        printable(&listed);
        let whole: serde_json::Value = serde_json::from_str(&format!("\"{name}\"")).unwrap();
        assert_eq!(super::json_of(&listed)["devices"][0]["id"], whole);

        let peer = Peer::play(greeted(with_device(name, vec![Idle])));
        let line = refused(&agent(&["attach", "--qmp", peer.path().to_str().unwrap()]));
        printable(&line);
        assert!(line.len() < 5000, "{}", line.len());

        let error = format!("{{\"error\": {{\"class\": \"{name}\", \"desc\": \"{name}\"}}}}\n");
        let peer =
            Peer::play(greeted(with_device(name, vec![Expect("device_del"), Say(error), Idle])));
        let line = refused(&agent(&["detach", "--qmp", peer.path().to_str().unwrap()]));
        printable(&line);
        assert!(line.len() < 5000, "{}", line.len());
    }
}

/// A parser's error quotes the invalid input.
#[test]
fn an_invalid_answer_is_described_shortly() {
    for answer in [
        format!("\"{ESCAPES}{}\"", "x".repeat(100_000)),
        format!("[{{\"name\": 1, \"type\": \"{ESCAPES}\"}}]"),
        format!("{{\"{ESCAPES}\": []}}"),
    ] {
        let peer = Peer::play(greeted(vec![Expect("qom-list"), Reply(leak(answer)), Idle]));
        let line = refused(&agent(&["attach", "--qmp", peer.path().to_str().unwrap()]));
        printable(&line);
        assert!(line.contains("not of the form") && line.len() < 5000, "{}", line.len());
    }
}

#[test]
fn watch_prints_events_that_are_only_printable() {
    let event =
        format!("{{\"event\": \"{ESCAPES}\", \"data\": {{\"{ESCAPES}\": \"{ESCAPES}\"}}}}\n");
    let peer = Peer::play(greeted(vec![Say(event)]));
    let text = said(&agent(&["watch", "--qmp", peer.path().to_str().unwrap()]));
    printable(&text);
    let events: Vec<_> = text.lines().map(super::json_of).collect();
    let whole = &events[1]["event"];
    assert_eq!(events[1]["data"][whole.as_str().unwrap()], *whole);
}

#[test]
fn watch_ends_when_nobody_reads_its_lines_any_more() {
    let peer = Peer::play(greeted(vec![Idle]));
    let mut watch = Command::new(BINARY)
        .args(["qemu", "watch", "--qmp", peer.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("watching"));
    assert!(watch.try_wait().unwrap().is_none());
    drop(lines);
    // A watch that did not end would keep the only connection to QEMU's socket.
    let status = process::ended(&mut watch);
    assert!(status.success(), "{status}");
}

/// Each RESET has nearly a megabyte of text.
#[test]
fn endless_resets_fill_no_log_and_delay_no_client() {
    let reason = format!("{ESCAPES}{}", "x".repeat(900_000));
    let reset = format!("{{\"event\": \"RESET\", \"data\": {{\"reason\": \"{reason}\"}}}}\n");
    let small = "{\"event\": \"RESET\", \"data\": {\"reason\": \"again\"}}\n".repeat(20_000);
    let (go, cued) = std::sync::mpsc::channel();
    let mut acts = vec![Cue(cued)];
    acts.extend((0..40).map(|_| Say(reset.clone())));
    acts.extend((0..30).map(|_| Say(small.clone())));
    acts.extend([Flood(u64::MAX)]);
    let peer = Peer::play(machine("vm", with_device("v", acts)));
    let words = "--vsock --port 4294967295 --listen unix:{}/socket --qmp";
    let words = format!("{words} {} memory 1M", peer.path().display());
    let mut agent = Agent::start(BINARY, &words);
    agent.wait_for_line("CID 4711 is granted");
    go.send(()).unwrap();
    let first = agent.wait_for_line("starts again").pop().unwrap();
    printable(&first);
    assert!(first.len() < 4000, "{}", first.len());
    // The listeners are on the same thread.
    let deadline = Instant::now() + DEADLINE;
    let mut opens = 0;
    while opens < 20 || peer.sent() < 10 << 20 {
        let start = Instant::now();
        assert_eq!(opened(&mut client(&agent.path("socket"))), 1 << 20);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(Instant::now() < deadline, "{} bytes were taken in", peer.sent());
        opens += 1;
    }
    agent.signal(Signal::SIGTERM);
    let (status, lines) = agent.wait();
    assert!(status.success(), "{status}");
    let resets = lines.iter().filter(|line| line.contains("starts again")).count();
    assert!(resets < 1000, "{resets} lines");
    let bytes: usize = lines.iter().map(String::len).sum();
    assert!(bytes < 1 << 20, "{bytes} bytes of log");
}
