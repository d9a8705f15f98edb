//! `--background`, and the name nbdkit: the order in which processes wait for each other, what is
//! left of the terminal, and the meaning of relative paths.

use std::{
    fs,
    io::{self, BufRead, Read, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, getsid, mkfifo},
};
use support::{
    agent::NBDKIT,
    client::{greeted, opened},
};
use tempfile::TempDir;

use crate::BINARY;

/// Ends a process that is not a child of this one. It is killed if the test panics.
struct Stray {
    pid: Pid,
    ended: bool,
}

impl Stray {
    fn of(pid_file: &Path) -> Self {
        let text = fs::read_to_string(pid_file).unwrap();
        Self { pid: Pid::from_raw(text.trim_end().parse().unwrap()), ended: false }
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    fn link(&self, name: &str) -> PathBuf {
        fs::read_link(self.proc(name)).unwrap()
    }

    fn terminate(mut self) {
        kill(self.pid, Signal::SIGTERM).unwrap();
        self.ended = true;
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        if !self.ended {
            kill(self.pid, Signal::SIGKILL).ok();
        }
    }
}

/// The agent under the name nbdkit.
fn namesake(dir: &Path) -> PathBuf {
    let link = dir.join("nbdkit");
    symlink(BINARY, &link).unwrap();
    link
}

fn start(program: &Path, dir: &Path, words: &str) -> Output {
    // This waits for the end of stdout and stderr, so a process that keeps them open makes the test
    // fail.
    Command::new(program).current_dir(dir).args(words.split(' ')).output().unwrap()
}

#[test]
fn by_its_name_or_by_the_option_it_leaves_the_terminal_when_it_is_ready() {
    for (name, words) in [("nbdkit", ""), ("namesake", ""), ("agent", "--background ")] {
        let dir = TempDir::new().unwrap();
        let dir = dir.path();
        let program = match name {
            "nbdkit" => NBDKIT.into(),
            "agent" => BINARY.into(),
            _ => namesake(dir),
        };
        fs::write(dir.join("disk"), [7; 512]).unwrap();
        if name == "nbdkit" {
            // nbdkit's parent process does not wait until the pid file is written. A reader of a
            // FIFO does.
            mkfifo(&dir.join("pid"), Mode::S_IRWXU).unwrap();
        }
        let words = format!("{words}-U socket -P pid file disk");
        let output = start(&program, dir, &words);
        assert!(output.status.success(), "{name}: {output:?}");
        let server = Stray::of(&dir.join("pid"));
        assert_eq!(server.link("cwd"), Path::new("/"), "{name}");
        for fd in ["fd/0", "fd/1", "fd/2"] {
            assert_eq!(server.link(fd), Path::new("/dev/null"), "{name}: {fd}");
        }
        if name != "nbdkit" {
            assert_eq!(getsid(Some(server.pid)).unwrap(), server.pid, "a session of its own");
        }
        assert_eq!(opened(&mut greeted(&dir.join("socket"))), 512);
        server.terminate();
    }
}

#[test]
fn nothing_is_left_behind_and_the_log_of_v_goes_on() {
    let dir = TempDir::new().unwrap();
    let mut child = Command::new(BINARY)
        .current_dir(dir.path())
        .args("--background -v --print-uri -U socket -P pid null 1M".split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut uri = String::new();
    child.stdout.take().unwrap().read_to_string(&mut uri).unwrap();
    assert_eq!(uri, format!("nbd+unix:///?socket={}/socket\n", dir.path().display()));
    assert!(child.wait().unwrap().success());
    let server = Stray::of(&dir.path().join("pid"));
    drop(greeted(&dir.path().join("socket")));
    server.terminate();
    // With -v stderr stays open until the server ends.
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(
        log.contains("listening on unix:") && log.contains("TERM: no new connections"),
        "{log}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "socket and pid file: {log}");
}

#[test]
fn errors_are_reported_on_stderr_and_by_the_status() {
    let dir = TempDir::new().unwrap();
    for words in [
        "-U missing/socket null",
        "-U socket -P missing/pid null",
        "-U socket file no-such-file",
        "-U socket -u no-such-user null",
        "-U socket no-such-plugin",
    ] {
        let output = start(Path::new(BINARY), dir.path(), &format!("--background {words}"));
        assert_eq!(output.status.code(), Some(1), "{words}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let errors = stderr.lines().filter(|line| line.starts_with("agent: error: "));
        assert_eq!(errors.count(), 1, "{words}: {stderr}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{words}");
    }
}

#[test]
fn a_relative_directory_is_served_from_the_background() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("disks")).unwrap();
    fs::write(dir.path().join("disks/one"), [0; 1024]).unwrap();
    let words = "--background -U socket -P pid file dir=disks";
    assert!(start(Path::new(BINARY), dir.path(), words).status.success());
    let server = Stray::of(&dir.path().join("pid"));
    let uri = format!("nbd+unix:///one?socket={}/socket", dir.path().display());
    let output = Command::new("nbdinfo").args(["--size", &uri]).output();
    let output = output.expect("nbdinfo is needed (Debian: apt-get install libnbd-bin)");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1024\n");
    server.terminate();
}

#[test]
fn the_service_manager_is_told_of_the_process_that_stays() {
    let dir = TempDir::new().unwrap();
    let notify = dir.path().join("notify");
    let ready = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    let status = Command::new(BINARY)
        .current_dir(dir.path())
        .env("NOTIFY_SOCKET", &notify)
        .args("--background --log=null -U socket -P pid null".split(' '))
        .status()
        .unwrap();
    assert!(status.success());
    let server = Stray::of(&dir.path().join("pid"));
    let mut state = [0; 64];
    let n = ready.recv(&mut state).unwrap();
    assert_eq!(state[..n], *format!("READY=1\nMAINPID={}", server.pid).as_bytes());
    server.terminate();
}

#[test]
fn a_start_in_the_background_ends_with_its_waiting_parent() {
    let dir = TempDir::new().unwrap();
    // A full pipe blocks it before it is ready, because it prints the URI first.
    let (read, write) = io::pipe().unwrap();
    fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while (&write).write(&[0; 4096]).is_ok() {}
    fcntl(&write, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut child = Command::new(BINARY)
        .current_dir(dir.path())
        .args("--background --log=stderr --print-uri -U socket null".split(' '))
        .stdout(write)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("listening on"), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    io::copy(&mut &read, &mut io::sink()).unwrap();
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("agent: error: --background: cannot leave the terminal"), "{rest}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{rest}");
}

/// A shell that starts the agent, does not report its end, and ends when its stdin does.
#[test]
fn it_ends_with_its_parent_even_as_another_user() {
    let dir = TempDir::new().unwrap();
    let change = if nix::unistd::geteuid().is_root() { " -u nobody" } else { "" };
    for words in [String::new(), change.to_owned()] {
        let script =
            format!(r#""{BINARY}" --exit-with-parent --print-uri -U -{words} null & read line"#);
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .env("TMPDIR", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = shell.stdout.take().unwrap();
        // The URI shows that the agent is ready.
        stdout.read_exact(&mut [0; 8]).unwrap();
        drop(shell.stdin.take());
        shell.wait().unwrap();
        let mut log = String::new();
        shell.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(log.contains("TERM: no new connections"), "{words}: {log}");
    }
}

#[test]
fn an_orphan_does_not_start() {
    // The shell is gone before the agent starts, because `cat` waits until the FIFO is opened for
    // writing.
    let dir = TempDir::new().unwrap();
    let fifo = dir.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let script = format!(
        r#"(cat "{}" && exec "{BINARY}" --exit-with-parent -U - null) >&2 & exit 0"#,
        fifo.display()
    );
    let mut shell = Command::new("sh")
        .args(["-c", &script])
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut log = shell.stderr.take().unwrap();
    shell.wait().unwrap();
    fs::write(&fifo, "").unwrap();
    // Orphans may be adopted by another process than process 1, which is then the parent.
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap_or_else(|error: io::Error| panic!("{error}"));
    assert!(
        text.contains("--exit-with-parent: the process that started agent has ended"),
        "{text}"
    );
}
