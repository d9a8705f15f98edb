//! `-P`: one agent, one file.

use std::{fs, process::Command};

use nix::sys::signal::Signal;
use support::{
    agent::Agent,
    client::{greeted, opened},
    process::fails,
};

use crate::BINARY;

#[test]
fn the_file_of_an_agent_that_runs_is_not_overwritten() {
    let mut first = Agent::start(BINARY, "-U {}/s -P {}/pid null 1M");
    let pid = first.path("pid");
    let second = |background: bool| {
        let mut command = Command::new(BINARY);
        command.args(["-U", "-", "-P"]).arg(&pid).args(["null", "1M"]);
        if background {
            command.arg("--background");
        }
        fails(command.env("TMPDIR", first.dir.path()))
    };
    for background in [false, true] {
        let (code, said) = second(background);
        assert_eq!(code, 1);
        let error = said.lines().last().unwrap();
        let named =
            format!("another agent that runs, process {}; end that agent first", first.id());
        assert!(error.contains(pid.to_str().unwrap()) && error.contains(&named), "{error}");
    }
    assert_eq!(fs::read_to_string(&pid).unwrap(), format!("{}\n", first.id()));
    assert_eq!(opened(&mut greeted(&first.path("s"))), 1 << 20, "the first serves on");
    let mut left: Vec<_> =
        fs::read_dir(first.dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["notify", "pid", "s"], "nothing of the others is left");

    // An agent that was killed leaves its file behind, unlocked.
    first.signal(Signal::SIGKILL);
    first.wait();
    assert!(pid.exists());
    let words = format!("-U {{}}/s -P {} null 1M", pid.display());
    let mut next = Agent::start(BINARY, &words);
    assert_eq!(fs::read_to_string(&pid).unwrap(), format!("{}\n", next.id()));
    next.end();
    assert!(!pid.exists());
}

/// A number in an unlocked file means nothing: another process may have it by now.
#[test]
fn a_stale_file_is_overwritten_even_if_its_number_is_in_use() {
    let other = Agent::start(BINARY, "-U {}/s null 1M");
    let path = other.path("pid");
    for content in [format!("{}\n", other.id()), "1\n".into(), String::new(), "x".repeat(100_000)] {
        fs::write(&path, &content).unwrap();
        let mut agent = Agent::start(BINARY, &format!("-U {{}}/s -P {} null 1M", path.display()));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", agent.id()));
        agent.end();
        assert!(!path.exists());
    }
}

#[test]
fn a_pipe_that_nobody_reads_does_not_hold_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut command = Command::new(BINARY);
    let (code, said) = fails(command.args(["-U", "-", "null", "1M", "-P"]).arg(&pipe));
    assert_eq!(code, 1);
    assert!(said.lines().last().unwrap().contains(pipe.to_str().unwrap()), "{said}");
}
