//! The path of a Unix socket before, while and after the agent uses it. Pid files.

use std::{
    fs,
    io::Read,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{agent::Agent, client::greeted, process::fails, until};
use tempfile::TempDir;

use crate::BINARY;

#[test]
fn socket_and_pid_file_are_there_when_ready_and_gone_at_the_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut agent = Agent::start(BINARY, "-U {}/s -P {}/pid --listen unix:- null 1M");
        let (socket, pid) = (agent.path("s"), agent.path("pid"));
        assert_eq!(fs::read_to_string(&pid).unwrap(), format!("{}\n", agent.id()));
        drop(greeted(&socket));
        let private = fs::read_dir(agent.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.is_dir())
            .expect("the directory of the private socket");
        assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o700);
        drop(greeted(&private.join("socket")));

        agent.signal(signal);
        let (status, lines) = agent.wait();
        for path in [&socket, &pid, &private] {
            assert!(!path.exists(), "{} is left", path.display());
        }
        assert!(status.success(), "{signal}: {status}: {lines:#?}");
    }
}

#[test]
fn an_occupied_socket_path_is_explained() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let live = UnixListener::bind(path("live")).unwrap();
    drop(UnixListener::bind(path("stale")).unwrap());
    fs::write(path("file"), "precious").unwrap();
    for (name, parts) in [
        ("live", ["another process listens there", "ss -lxp src"]),
        ("stale", ["no process listens on it", "rm "]),
        ("file", ["not a socket", "choose another path"]),
    ] {
        let (code, stderr) =
            fails(Command::new(BINARY).arg("-U").arg(path(name)).args(["null", "1M"]));
        assert_eq!(code, 1);
        assert!(parts.iter().all(|part| stderr.contains(part)), "{name}: {stderr}");
        assert!(path(name).exists(), "{name} was removed");
    }
    assert_eq!(fs::read_to_string(path("file")).unwrap(), "precious");
    drop(live);
}

#[test]
fn a_live_socket_whose_queue_is_full_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("s");
    let full = UnixListener::bind(&path).unwrap();
    nix::sys::socket::listen(&full, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let (code, stderr) = fails(Command::new(BINARY).arg("-U").arg(&path).args(["null", "1M"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("another process listens there"), "{stderr}");
}

#[test]
fn a_socket_that_another_put_there_since_is_left_alone() {
    let mut agent = Agent::start(BINARY, "-U {}/s null 1M");
    let (ours, new) = (agent.path("s"), agent.path("new"));
    let other = UnixListener::bind(&new).unwrap();
    fs::rename(&new, &ours).unwrap();
    agent.end();
    assert!(ours.exists(), "it was not ours any more");
    drop(other);
}

#[test]
fn a_failed_start_leaves_no_socket() {
    let dir = TempDir::new().unwrap();
    let (first, pid) = (dir.path().join("s"), dir.path().join("missing/pid"));
    for words in [
        vec!["--listen", "unix:/nonexistent/s"],
        vec!["-P", pid.to_str().unwrap()],
        vec!["--listen", "vsock:77777777:1", "--listen", "unix:-"],
    ] {
        let (code, stderr) = fails(
            Command::new(BINARY)
                .env("TMPDIR", dir.path())
                .arg("-U")
                .arg(&first)
                .args(&words)
                .args(["null", "1M"]),
        );
        assert_eq!(code, 1, "{stderr}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{words:?}: {stderr}");
    }
}

/// A name server that receives queries and answers none, in a network namespace with its own
/// resolv.conf.
#[test]
fn a_silent_name_server_does_not_keep_term_from_ending_the_start() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    const SILENT: &str = "import os, socket, sys\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 53))\n\
        s.recvfrom(512); open(sys.argv[1], 'w').close(); s.recvfrom(1); sys.stdin.read()\n";
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:30\n")
        .unwrap();
    fs::write(dir.path().join("silent.py"), SILENT).unwrap();
    let script = format!(
        "ip link set lo up && mount --bind resolv.conf /etc/resolv.conf && \
         {{ /usr/bin/python3 silent.py asked <&3 & }} 3<&0 && echo $$ && \
         until ss -lun | grep -q :53; do sleep 0.02; done && \
         exec '{BINARY}' -i disks.example -p 0 null </dev/null"
    );
    let mut child = Command::new("unshare")
        .args(["-mn", "sh", "-c", &script])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the agent asks for a name", || {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        dir.path().join("asked").exists()
    });
    let told = Instant::now();
    // unshare(1) executes the shell, and the shell executes the agent.
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    drop(child.stdin.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("TERM came before the agent was ready"), "{said}");
}
