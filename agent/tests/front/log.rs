//! Where the log goes, and that nothing a peer sends reaches it as it is.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::Instant,
};

use nix::sys::signal::Signal;

use crate::agent::{Agent, PATIENCE, fails_with, greeted};

/// Looks until it is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        thread::yield_now();
    }
}

/// Asks for an export by a name that would break a line and paint a terminal.
fn ask_for_a_wild_name(agent: &Agent) {
    let mut stream: UnixStream = greeted(&agent.path("s"));
    let name = b"a\nb\x1b[31m\"c";
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream.write_all(b"IHAVEOPT\x00\x00\x00\x01").unwrap();
    stream.write_all(&u32::try_from(name.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(name).unwrap();
    // It is open once it is answered.
    stream.read_exact(&mut [0; 10]).unwrap();
}

#[test]
fn lines_go_to_a_file_which_hup_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fs::write(&log, "kept\n").unwrap();
    let mut agent = Agent::start(&format!("--log={} -U {{}}/s null 1M", log.display()));
    ask_for_a_wild_name(&agent);
    let said = |path: &Path, part: &str| {
        until(&format!("{part} in {}", path.display()), || {
            fs::read_to_string(path).is_ok_and(|text| text.contains(part))
        });
    };
    said(&log, r#"export="a\nb\u{1b}[31m\"c""#);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("kept\n") && !text.contains('\x1b'), "{text}");
    let moved = dir.path().join("log.1");
    fs::rename(&log, &moved).unwrap();
    agent.signal(Signal::SIGHUP);
    until("a new file", || log.exists());
    ask_for_a_wild_name(&agent);
    said(&log, "export=");
    let stderr = agent.end();
    assert!(stderr.is_empty(), "{stderr:?}");
}

#[test]
fn json_is_an_object_a_line() {
    let mut agent = Agent::start("--log=json -U {}/s null 1M");
    ask_for_a_wild_name(&agent);
    agent.wait_for_line("\"export\"");
    let stderr = agent.end();
    assert!(!stderr.is_empty());
    for line in stderr {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
        assert!(line.contains("\"level\":\"INFO\"") && line.contains("\"timestamp\""), "{line}");
        assert!(!line.contains('\x1b'), "{line}");
    }
}

#[test]
fn what_cannot_be_logged_to_is_named() {
    for (words, part) in [
        ("--log=/nonexistent/log null", "--log=/nonexistent/log: cannot open the file"),
        ("--log=nowhere null", "--log 'nowhere'; it can be stderr, json, syslog"),
    ] {
        let (code, stderr) = fails_with(words);
        assert_eq!((code, stderr.lines().count()), (1, 1), "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    }
}
