//! No descriptor left: the listener waits and lives.

use std::{os::unix::net::UnixStream, process::Command};

use crate::agent::{Agent, BINARY, greeted, opened, receive_greeting};

#[test]
fn without_descriptors_the_listener_waits_and_sessions_go_on() {
    // Enough for the agent itself, which has some for each processor.
    let limit = 64 + 8 * std::thread::available_parallelism().unwrap().get();
    // Lowers the hard limit too, which the agent cannot raise again.
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!(r#"ulimit -n {limit}; exec "$@""#), "sh", BINARY]);
    let mut agent = Agent::start_by(limited, "-U {}/s memory 1G");
    let mut first = greeted(&agent.path("s"));

    let mut crowd: Vec<UnixStream> =
        (0..limit).map(|_| UnixStream::connect(agent.path("s")).unwrap()).collect();
    let lines = agent.wait_for_line("cannot accept");
    assert!(lines.last().unwrap().contains("Too many open files"), "{lines:#?}");
    assert_eq!(opened(&mut first), 1 << 30, "an open session goes on");

    // The last had not been accepted, and is when the others make room.
    let mut last = crowd.pop().unwrap();
    drop(crowd);
    receive_greeting(&mut last);
    assert_eq!(opened(&mut last), 1 << 30);
    let lines = agent.wait_for_line("accepts again");
    assert!(!lines.iter().any(|line| line.contains("cannot accept")), "said once an episode");
    agent.end();
}
