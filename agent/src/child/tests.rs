use std::{fs, path::Path, thread};

use super::*;

fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]);
    shell
}

/// Whether a process exists and is no zombie.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Waits until the file has a process id.
fn pid_in(path: &Path) -> String {
    loop {
        match fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text,
            _ => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn is_gone(pid: &str) {
    let start = Instant::now();
    while runs(pid) {
        assert!(start.elapsed() < Duration::from_secs(20), "{pid} is still there");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_program_gets_its_input_and_is_heard_on_both_pipes() {
    let input = vec![b'x'; 300_000];
    let answer = Job::new(shell("cat; yes | head -c 300000 >&2; exit 7")).input(&input).answer();
    let answer = answer.unwrap();
    assert_eq!(answer.stdout, input);
    assert_eq!(answer.status.code(), Some(7));
    assert!((STDERR_KEPT..300_000).contains(&answer.stderr.len()), "{}", answer.stderr.len());
    // A program that reads none of its input.
    let answer = Job::new(shell("echo no")).input(&input).answer().unwrap();
    assert_eq!(answer.stdout, b"no\n");
    let error = Job::new(Command::new("/none/such")).answer().unwrap_err();
    assert!(matches!(error, ChildError::Start(_)), "{error}");
    assert_eq!(Job::new(shell("exit 3")).status().unwrap().code(), Some(3));
}

/// The minimum of bytes that are kept of a long stderr.
const STDERR_KEPT: usize = 64 << 10;

#[test]
fn a_flood_is_cut_and_its_program_ended() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("echo $$ > {}; exec yes", pid.display());
    let error = Job::new(shell(&script)).output(1 << 20).answer().unwrap_err();
    assert!(matches!(error, ChildError::Flood(most) if most == 1 << 20), "{error}");
    is_gone(&pid_in(&pid));
    let beginning = Job::new(shell("yes")).output(5).beginning().unwrap();
    assert_eq!(beginning, b"y\ny\ny");
    let beginning = Job::new(shell("echo x; exit 3")).output(5).beginning().unwrap();
    assert_eq!(beginning, b"x\n");
}

#[test]
fn at_the_deadline_all_that_was_started_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    for trap in ["", "trap '' TERM; "] {
        let script = format!(
            "{trap}sh -c '{trap}echo $$ > {}; while :; do sleep 1000; done' & wait; sleep 1000",
            pid.display()
        );
        let start = Instant::now();
        let job = Job::new(shell(&script)).within(Duration::from_millis(300));
        let error = job.answer().unwrap_err();
        assert!(matches!(error, ChildError::Deadline(_)), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        is_gone(&pid_in(&pid));
        fs::remove_file(&pid).unwrap();
    }
    let error = Job::new(shell("sleep 1000")).within(Duration::from_millis(50)).status();
    assert!(matches!(error.unwrap_err(), ChildError::Deadline(_)));
}

/// A grandchild that holds the pipes neither delays the agent nor survives.
#[test]
fn processes_left_running_are_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; echo done", pid.display());
    let start = Instant::now();
    let answer = Job::new(shell(&script)).answer().unwrap();
    assert_eq!(answer.stdout, b"done\n");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    is_gone(&pid_in(&pid));
}
