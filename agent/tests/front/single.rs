//! One client on stdin and stdout (`-s`), and nothing else is ever written there.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{
            getsockopt,
            sockopt::{KeepAlive, TcpNoDelay},
        },
    },
    unistd::Pid,
};
use support::{
    client::{opened, receive_greeting},
    wire::request,
};

use crate::BINARY;

/// The agent with a socket on stdin and stdout that no other process has open.
fn spawn(words: &str, client: impl Into<OwnedFd>, stderr: Stdio) -> Child {
    let client: OwnedFd = client.into();
    Command::new(BINARY)
        .args(words.split(' '))
        .stdin(client.try_clone().unwrap())
        .stdout(client)
        .stderr(stderr)
        .spawn()
        .unwrap()
}

fn end(child: Child) -> (i32, String) {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    (status.code().expect("an exit code"), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_client_on_a_socket_is_served_and_ends_it() {
    let (mut client, theirs) = UnixStream::pair().unwrap();
    let child = spawn("-s memory 1M", theirs, Stdio::piped());
    receive_greeting(&mut client);
    assert_eq!(opened(&mut client), 1 << 20);
    for fd in [0, 1] {
        let now = fs::read_link(format!("/proc/{}/fd/{fd}", child.id())).unwrap();
        assert_eq!(now.to_str(), Some("/dev/null"), "descriptor {fd}");
    }
    client.write_all(&request(2, 7, 0, 0)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let (code, stderr) = end(child);
    assert_eq!(code, 0, "{stderr}");
    let peer = format!("peer=unix:pid={},", std::process::id());
    assert!(stderr.contains(&peer), "{stderr}");
    assert!(stderr.contains("end=disconnected"), "{stderr}");
}

#[test]
fn a_client_over_tcp_is_known_by_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let same = theirs.try_clone().unwrap();
    let child = spawn("--single --keepalive memory 1M", theirs, Stdio::piped());
    receive_greeting(&mut client);
    assert!(getsockopt(&same, KeepAlive).unwrap() && getsockopt(&same, TcpNoDelay).unwrap());
    drop(same);
    let peer = format!("peer=tcp:{} ", client.local_addr().unwrap());
    drop(client);
    let (code, stderr) = end(child);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains(&peer), "{stderr}");
}

#[test]
fn a_client_on_pipes_is_served_until_stdin_ends() {
    let mut child = Command::new(BINARY)
        .args(["-s", "memory", "64M"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    receive_greeting(&mut from);
    to.write_all(&3_u32.to_be_bytes()).unwrap();
    to.write_all(b"IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00").unwrap();
    let mut export = [0; 10];
    from.read_exact(&mut export).unwrap();
    assert_eq!(export[..8], (64_u64 << 20).to_be_bytes());
    // More than pipes hold, in each direction.
    const LEN: u32 = 8 << 20;
    let data: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
    let mut header = [0; 16];
    to.write_all(&request(1, 7, 4096, LEN)).unwrap();
    to.write_all(&data).unwrap();
    from.read_exact(&mut header).unwrap();
    assert_eq!(header[4..8], [0; 4], "the write succeeds");
    to.write_all(&request(0, 7, 4096, LEN)).unwrap();
    from.read_exact(&mut header).unwrap();
    let mut back = vec![0; data.len()];
    from.read_exact(&mut back).unwrap();
    assert!(back == data);
    drop(to);
    assert_eq!(from.read(&mut [0]).unwrap(), 0, "nothing behind the last reply");
    let (code, stderr) = end(child);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("peer=pipe "), "{stderr}");
    assert!(stderr.contains(&format!("written={LEN}")), "{stderr}");
}

/// As inetd and xinetd start the agent.
#[test]
fn where_stderr_is_the_client_too_it_gets_no_log_and_no_error() {
    for (words, code, expected) in [
        ("-v -s memory 1M", 0, Some(b"NBDMAGICIHAVEOPT\0\x03")),
        ("-s no-such-plugin", 1, None),
        ("-s file /nonexistent/disk", 1, None),
        ("--nonsense -s memory 1M", 1, None),
        ("-s -p 1 memory 1M", 1, None),
        ("-s --print-uri memory 1M", 1, None),
        ("-s --help", 1, None),
        ("--version --single", 1, None),
    ] {
        let (mut client, theirs) = UnixStream::pair().unwrap();
        let stderr = OwnedFd::from(theirs.try_clone().unwrap());
        let child = spawn(words, theirs, stderr.into());
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert_eq!(all, expected.map(Vec::from).unwrap_or_default(), "{words}");
        assert_eq!(end(child).0, code, "{words}");
    }
}

#[test]
fn where_stderr_goes_to_the_same_pipe_it_gets_no_log() {
    let (mut from, to) = std::io::pipe().unwrap();
    let (stdin, client) = std::io::pipe().unwrap();
    let mut child = Command::new(BINARY)
        .args(["-v", "-s", "memory", "1M"])
        .stdin(stdin)
        .stdout(to.try_clone().unwrap())
        .stderr(to)
        .spawn()
        .unwrap();
    drop(client);
    let mut all = Vec::new();
    from.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"NBDMAGICIHAVEOPT\0\x03");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_signal_drains_the_one_session() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (mut client, theirs) = UnixStream::pair().unwrap();
        let child = spawn("-s --shutdown-timeout 1h memory 1M", theirs, Stdio::piped());
        receive_greeting(&mut client);
        opened(&mut client);
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        let (code, stderr) = end(child);
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("end=shut down"), "{stderr}");
    }
}

#[test]
fn a_pid_file_lives_as_long_as_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let words = format!("-s -P {} memory 1M", path.display());
    let (mut client, theirs) = UnixStream::pair().unwrap();
    let child = spawn(&words, theirs, Stdio::piped());
    receive_greeting(&mut client);
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", child.id()));
    drop(client);
    assert_eq!(end(child).0, 0);
    assert!(!path.exists());
}

#[test]
fn standard_streams_that_are_no_client_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = || OwnedFd::from(tempfile::tempfile().unwrap());
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let pipe = || OwnedFd::from(std::io::pipe().unwrap().0);
    for (stdin, stdout, part) in [
        (listener.into(), pipe(), "stdin is a listening socket"),
        (null(), pipe(), "stdin is a character device"),
        (file(), pipe(), "stdin is a file"),
        (pipe(), file(), "stdout is a file"),
    ] {
        let child = Command::new(BINARY)
            .args(["-s", "memory", "1M"])
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (code, stderr) = end(child);
        assert_eq!(code, 1);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("agent: error: -s/--single: "), "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    }
}

/// The options of nbdkit's own tests, for both servers.
#[test]
fn libnbd_runs_it_as_a_command_as_it_runs_nbdkit() {
    for server in [BINARY, "nbdkit"] {
        let script = format!(
            r#"
import nbd
h = nbd.NBD()
h.connect_command(["{server}", "-s", "memory", "1M"])
assert h.get_size() == 1 << 20
h.pwrite(b"x" * 512, 512)
assert h.pread(512, 512) == b"x" * 512
h.shutdown()
"#
        );
        let output = Command::new("/usr/bin/python3").args(["-c", &script]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{server}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}
