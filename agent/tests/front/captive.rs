//! `--run`: what the command finds, what its exit status means, and which process ends with which. nbdkit
//! is tested too where it behaves the same.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{agent::NBDKIT, process::is_running, until};
use tempfile::TempDir;

use crate::BINARY;

/// Both servers on a private socket. The agent makes one by default, nbdkit 1.32 needs an option.
fn servers(dir: &Path) -> [Command; 2] {
    let mut nbdkit = Command::new(NBDKIT);
    nbdkit.args(["-U", "-"]);
    let mut agent = Command::new(BINARY);
    agent.env("TMPDIR", dir);
    [nbdkit, agent]
}

fn run(mut server: Command, words: &[&str], command: &str) -> Output {
    server.args(words).args(["memory", "1M", "--run", command]).output().unwrap()
}

#[test]
fn the_command_finds_where_to_connect_and_with_which_name() {
    let command = r#"nbdinfo --size "$uri"; nbdinfo --size $nbd
        echo "$exportname|$port|${tls-unset}"; test -S "$unixsocket" && echo socket"#;
    let dir = TempDir::new().unwrap();
    for server in servers(dir.path()) {
        let output = run(server, &["-e", "a 'b\" $HOME ?"], command);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, "1048576\n1048576\na 'b\" $HOME ?||unset\nsocket\n");
        assert!(output.status.success());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the private socket is gone");
}

#[test]
fn the_exit_status_is_the_commands() {
    let dir = TempDir::new().unwrap();
    for (command, status) in [
        ("", 0),
        ("true", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("no-such-program", 127),
    ] {
        for server in servers(dir.path()) {
            let program = server.get_program().to_owned();
            let output = run(server, &[], command);
            assert_eq!(output.status.code(), Some(status), "{command}: {program:?}");
        }
    }
}

#[test]
fn stdin_and_stdout_are_the_agents() {
    let dir = TempDir::new().unwrap();
    for mut server in servers(dir.path()) {
        let mut child = server
            .args(["null", "--run", "cat; echo said >&2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"through").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"through");
        assert!(String::from_utf8(output.stderr).unwrap().contains("said"));
    }
}

#[test]
fn the_first_listener_is_meant() {
    // Above 2^31, and different in each test process.
    let vsock = 3_000_000_000 + std::process::id();
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("a 'b");
    let socket = socket.to_str().unwrap();
    let listen = format!("unix:{socket}");
    let port = vsock.to_string();
    let said = |words: &[&str]| {
        let mut agent = Command::new(BINARY);
        agent.env("TMPDIR", dir.path());
        let output = run(agent, words, r#"echo "$uri|$port|$unixsocket""#);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    // Nothing connects to it from here. This is libnbd's form, for a client on this machine.
    let uri = format!("nbd+vsock://1:{vsock}/x|{vsock}|");
    assert_eq!(said(&["--vsock", "-p", &port, "--listen", &listen, "-e", "x"]), uri);
    let text = said(&["-i", "127.0.0.1", "-p", "0", "--listen", &listen]);
    let (uri, rest) = text.split_once('|').unwrap();
    let port = uri.strip_prefix("nbd://127.0.0.1:").expect("TCP comes first");
    assert_eq!(rest, format!("{port}|"));
    let escaped = socket.replace(' ', "%20").replace('\'', "%27");
    assert_eq!(said(&["-U", socket]), format!("nbd+unix:///?socket={escaped}||{socket}"));
}

/// A command that reports that it runs, waits for a line, and exits with 5.
fn patient(mut server: Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = server
        .args(["memory", "1M", "--run", "echo runs; read line; exit 5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "runs\n");
    (child, stdout)
}

fn terminate(child: &Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
}

#[test]
fn a_command_outlives_the_service_and_has_the_last_word() {
    let dir = TempDir::new().unwrap();
    for server in servers(dir.path()) {
        let (mut child, _stdout) = patient(server);
        terminate(&child);
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(5));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_second_signal_ends_the_agent_and_the_command() {
    let dir = TempDir::new().unwrap();
    let [_, agent] = servers(dir.path());
    let (mut child, mut stdout) = patient(agent);
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    terminate(&child);
    log.find(|line| line.contains("waiting for the command")).expect("said");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing listens any more");
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    let mut line = String::new();
    assert_eq!(stdout.read_line(&mut line).unwrap(), 0, "nobody is left who could say something");
}

#[test]
fn an_agent_that_does_not_start_runs_nothing() {
    let mut agent = Command::new(BINARY);
    agent.args(["-U", "/nonexistent/s"]);
    let output = run(agent, &[], "echo runs");
    assert_eq!((output.status.code(), output.status.signal()), (Some(1), None));
    assert!(output.stdout.is_empty());
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
}

#[test]
fn a_command_that_swaps_to_the_disk_finds_the_agent_in_memory() {
    if !nix::unistd::geteuid().is_root() {
        // The message for other users is tested in `user`, which root may run.
        return;
    }
    let dir = TempDir::new().unwrap();
    let command =
        "grep VmLck: /proc/$PPID/status; cat /proc/$PPID/oom_score_adj /proc/$$/oom_score_adj";
    let [_, agent] = servers(dir.path());
    let text = String::from_utf8(run(agent, &["--swap"], command).stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let locked: u64 = lines[0].split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(locked > 1000, "{text}");
    assert_ne!(lines[1], "-1000", "the command is not spared");
}

/// The parent is killed, as when a test or a build is stopped. The command and all processes that it has
/// started end with the agent, including those that ignore TERM.
#[test]
fn with_the_parent_both_the_agent_and_the_command_end() {
    let dir = TempDir::new().unwrap();
    let pids = dir.path().join("pids");
    // The command's $PPID is the agent.
    let command = "sh -c 'trap \"\" TERM; echo $$ >> pids; sleep 1000 & sleep 1001' & \
                   echo $PPID >> pids; echo $$ >> pids; wait; sleep 1000; true";
    let mut shell = Command::new("sh")
        .args(["-c", "\"$@\" & wait", "sh", BINARY, "--exit-with-parent", "null", "--run", command])
        .current_dir(dir.path())
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = String::new();
    until("three processes run", || {
        running = fs::read_to_string(&pids).unwrap_or_default();
        running.lines().count() == 3
    });
    shell.kill().unwrap();
    shell.wait().unwrap();
    // Each of the processes has the pipe open.
    let mut log = String::new();
    shell.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("the parent of agent has ended"), "{log}");
    for pid in running.lines() {
        assert!(!is_running(pid.parse().unwrap()), "{pid} still runs");
    }
}
