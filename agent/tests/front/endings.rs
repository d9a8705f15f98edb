//! From a signal to the end: after all work is done, at the deadline, or at once.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use support::{
    agent::Agent,
    client::{greeted, opened},
    wire::request,
};

use crate::BINARY;

/// A client with more replies in flight than sockets hold, which it never reads.
fn stuck(agent: &Agent) -> UnixStream {
    let mut stream = greeted(&agent.path("s"));
    assert_eq!(opened(&mut stream), 1 << 30);
    for _ in 0..4 {
        stream.write_all(&request(0, 7, 0, 32 << 20)).unwrap();
    }
    // The first byte of a reply: the agent is now sending.
    stream.read_exact(&mut [0]).unwrap();
    stream
}

#[test]
fn idle_clients_do_not_hold_the_agent() {
    let mut agent = Agent::start(BINARY, "-U {}/s --shutdown-timeout 1h memory 1G");
    let _negotiating = greeted(&agent.path("s"));
    let mut idle = greeted(&agent.path("s"));
    opened(&mut idle);
    let lines = agent.end();
    assert!(!lines.iter().any(|line| line.contains("--shutdown-timeout")), "{lines:#?}");
}

#[test]
fn a_client_that_never_reads_is_cut_at_the_deadline() {
    let mut agent = Agent::start(BINARY, "-U {}/s --shutdown-timeout 300ms memory 1G");
    let _stuck = stuck(&agent);
    let start = Instant::now();
    let lines = agent.end();
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(
        lines.iter().any(|line| line.contains("sessions have not ended within 0.3 s")),
        "{lines:#?}"
    );
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut agent = Agent::start(BINARY, "-U {}/s --shutdown-timeout 1h memory 1G");
    let _stuck = stuck(&agent);
    agent.signal(Signal::SIGTERM);
    agent.wait_for_line("TERM: no new connections");
    agent.signal(Signal::SIGINT);
    let (status, lines) = agent.wait();
    assert!(status.success(), "{status}");
    assert!(lines.iter().any(|line| line.contains("INT again")), "{lines:#?}");
}

#[test]
fn no_new_client_is_let_in_while_the_agent_ends() {
    let mut agent = Agent::start(BINARY, "-v -U {}/s --shutdown-timeout 1h memory 1G");
    let stuck = stuck(&agent);
    agent.signal(Signal::SIGTERM);
    agent.wait_for_line("closed unix:");
    let error = UnixStream::connect(agent.path("s")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    drop(stuck);
    let (status, _) = agent.wait();
    assert!(status.success());
}

#[test]
fn hup_does_not_end_it() {
    let mut agent = Agent::start(BINARY, "-U {}/s memory 1M");
    agent.signal(Signal::SIGHUP);
    agent.wait_for_line("HUP");
    drop(greeted(&agent.path("s")));
    agent.end();
}

#[test]
fn a_log_that_nobody_reads_any_more_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let mut child = Command::new(BINARY)
        .args(["--print-uri", "-v", "-U"])
        .arg(&socket)
        .args(["memory", "1M"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The URI shows that the agent is ready. From here on nothing reads the log.
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 10]).unwrap();
    drop(child.stderr.take());
    for _ in 0..3 {
        let mut stream = greeted(&socket);
        opened(&mut stream);
        stream.write_all(&request(2, 7, 0, 0)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the session ends, and is logged to nobody");
    }
    let id = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(id, Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_client_that_says_it_is_done_closes_first() {
    let mut agent = Agent::start(BINARY, "-U {}/s memory 1M");
    let mut stream = greeted(&agent.path("s"));
    opened(&mut stream);
    stream.write_all(&request(2, 7, 0, 0)).unwrap();
    // The agent ends its direction at once, and leaves the other direction open, so that the client
    // closes first.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    stream.write_all(b"x").unwrap();
    drop(stream);
    agent.wait_for_line("end=disconnected");
    agent.end();
}
