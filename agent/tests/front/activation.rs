//! Socket activation: listeners and connections from descriptor 3 on, of every kind.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    process::{self, Command},
};

use support::{
    agent::Agent,
    client::{greeted, opened, receive_greeting},
    process::fails,
    wire::request,
};
use tempfile::TempDir;

use crate::{BINARY, handed::Handed};

/// The name in the log of a client in this process.
fn us() -> String {
    format!("unix:pid={},uid={}", process::id(), nix::unistd::getuid())
}

#[test]
fn listeners_of_every_family_serve_and_are_named_in_the_log() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("s");
    let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
    // Like systemd's `ListenStream=10809`: one socket for both families.
    let both = TcpListener::bind("[::]:0").unwrap();
    let hidden = format!("agent-test-{}", process::id());
    let hidden = SocketAddr::from_abstract_name(hidden).unwrap();
    let [v4_at, both_at] = [&v4, &both].map(|it| it.local_addr().unwrap());
    let handed = Handed::one(v4)
        .and(both)
        .and(UnixListener::bind(&path).unwrap())
        .and(UnixListener::bind_addr(&hidden).unwrap())
        .named("four:both::hidden");
    let mut agent = Agent::start_by(handed.launcher(), "--print-uri memory 1M");
    drop(handed);
    let lines = agent.wait_for_line("unix:@").join("\n");
    for part in [
        format!("listening on tcp:{v4_at} (systemd: four)"),
        format!("listening on tcp:{both_at} (systemd: both)"),
        format!("listening on unix:{} (socket activation)", path.display()),
        format!("listening on unix:@agent-test-{} (systemd: hidden)", process::id()),
    ] {
        assert!(lines.contains(&part), "{part}: {lines}");
    }
    let mut hello = TcpStream::connect(v4_at).unwrap();
    receive_greeting(&mut hello);
    drop(hello);
    let mut by_v4 = TcpStream::connect(("127.0.0.1", both_at.port())).unwrap();
    receive_greeting(&mut by_v4);
    let name = format!("peer=tcp:{}", by_v4.local_addr().unwrap());
    drop(by_v4);
    // Logged as an IPv4 address, not as [::ffff:127.0.0.1].
    agent.wait_for_line(&name);
    receive_greeting(&mut TcpStream::connect(("::1", both_at.port())).unwrap());
    receive_greeting(&mut UnixStream::connect_addr(&hidden).unwrap());
    drop(greeted(&path));
    let mut uris = String::new();
    let mut stdout = agent.stdout();
    agent.end();
    stdout.read_to_string(&mut uris).unwrap();
    let expected = format!(
        "nbd://{v4_at}\nnbd://localhost:{}\nnbd+unix:///?socket={}\n",
        both_at.port(),
        path.display()
    );
    assert_eq!(uris, expected, "what has no URI has none");
    assert!(path.exists(), "the socket is systemd's, and stays");
}

#[test]
fn a_vsock_listener_is_taken() {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, listen, socket,
    };
    // Bound and listening. Nothing connects to it here.
    let vsock = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .expect("AF_VSOCK in this kernel");
    let any = VsockAddr::new(u32::MAX, u32::MAX);
    bind(std::os::fd::AsRawFd::as_raw_fd(&vsock), &any).unwrap();
    listen(&vsock, Backlog::new(5).unwrap()).unwrap();
    let handed = Handed::one(vsock).named("guests");
    let mut agent = Agent::start_by(handed.launcher(), "memory 1M");
    let lines = agent.wait_for_line("listening on");
    assert!(lines.last().unwrap().contains("vsock:"), "{lines:#?}");
    assert!(lines.last().unwrap().ends_with("(systemd: guests)"), "{lines:#?}");
    agent.end();
}

#[test]
fn with_connections_only_it_ends_when_the_last_is_over() {
    let (mut first, one) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut second = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let name = second.local_addr().unwrap();
    let handed = Handed::one(one).and(listener.accept().unwrap().0).named("connection:connection");
    let mut agent = Agent::start_by(handed.launcher(), "memory 1M");
    drop(handed);
    receive_greeting(&mut first);
    assert_eq!(opened(&mut first), 1 << 20);
    first.write_all(&request(2, 7, 0, 0)).unwrap();
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    receive_greeting(&mut second);
    drop(second);
    let (status, lines) = agent.wait();
    assert!(status.success(), "{status}: {lines:#?}");
    let lines = lines.join("\n");
    for part in [
        format!("descriptor 3 (connection) is the connection of {}", us()),
        format!("descriptor 4 (connection) is the connection of tcp:{name}"),
        "the last connection has ended".to_owned(),
    ] {
        assert!(lines.contains(&part), "{part}: {lines}");
    }
}

#[test]
fn with_a_listener_too_it_stays() {
    let (first, one) = UnixStream::pair().unwrap();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("s");
    let handed = Handed::one(one).and(UnixListener::bind(&path).unwrap());
    let mut agent = Agent::start_by(handed.launcher(), "memory 1M");
    drop(handed);
    drop(first);
    agent.wait_for_line("session peer=");
    drop(greeted(&path));
    agent.end();
}

#[test]
fn a_signal_drains_connections_that_were_handed_over() {
    let (mut client, theirs) = UnixStream::pair().unwrap();
    let handed = Handed::one(theirs);
    let mut agent = Agent::start_by(handed.launcher(), "memory 1M");
    drop(handed);
    receive_greeting(&mut client);
    opened(&mut client);
    let lines = agent.end().join("\n");
    assert!(lines.contains("end=shut down"), "{lines}");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn descriptors_are_closed_to_children() {
    const CLOEXEC: i32 = 0o2_000_000;
    let dir = TempDir::new().unwrap();
    let (client, theirs) = UnixStream::pair().unwrap();
    let handed = Handed::one(UnixListener::bind(dir.path().join("s")).unwrap()).and(theirs);
    let mut agent = Agent::start_by(handed.launcher(), "memory 1M");
    for fd in [3, 4] {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", agent.id())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        assert_eq!(flags & CLOEXEC, CLOEXEC, "descriptor {fd}: {info}");
    }
    agent.end();
    drop(client);
}

#[test]
fn an_unusable_descriptor_is_one_line_that_names_it() {
    let good = || UnixStream::pair().unwrap().0;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (handed, part) in [
        (Handed::one(udp), "descriptor 3 is a datagram socket"),
        (
            Handed::one(good()).and(File::open("/dev/null").unwrap()).named("a:b"),
            "descriptor 4 (b) is a character device",
        ),
        (Handed::one(std::io::pipe().unwrap().0), "descriptor 3 is a pipe"),
    ] {
        let (code, stderr) = fails(handed.launcher().args(["memory", "1M"]));
        assert_eq!(code, 1);
        let line = stderr.lines().last().unwrap();
        assert!(line.starts_with("agent: error: socket activation: "), "{stderr}");
        assert!(line.contains(part) && line.contains("ListenStream="), "{stderr}");
        assert_eq!(stderr.matches("error").count(), 1, "{stderr}");
    }
    let handed = Handed::one(good());
    for (count, parts) in [
        ("2", ["descriptor 4", "Bad file descriptor"]),
        ("x", ["LISTEN_FDS is 'x'", "no number"]),
        ("99999999999", ["LISTEN_FDS is '99999999999'", "no number"]),
    ] {
        let mut launcher = handed.launcher();
        let (code, stderr) = fails(launcher.env("LISTEN_FDS", count).args(["memory", "1M"]));
        assert_eq!(code, 1);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
    }
}

#[test]
fn options_that_say_where_to_listen_contradict_it() {
    let handed = Handed::one(UnixStream::pair().unwrap().0);
    for words in
        ["-p 1", "-i ::1", "-U /nonexistent/s", "--vsock", "--listen tcp:1", "-s", "--run :"]
    {
        let (code, stderr) = fails(handed.launcher().args(words.split(' ')).args(["memory", "1"]));
        assert_eq!(code, 1);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let option = words.split(' ').next().unwrap();
        for part in ["socket activation (LISTEN_FDS) and", option] {
            assert!(stderr.contains(part), "{words}: {stderr}");
        }
    }
}

#[test]
fn sockets_of_another_process_are_not_touched() {
    // Variables inherited from a parent that did not clear them, and another file as descriptor 3.
    let mut inherits = Command::new("sh");
    inherits.args(["-c", r#"LISTEN_PID=$PPID LISTEN_FDS=1 exec "$@" 3</dev/null"#, "sh", BINARY]);
    let mut agent = Agent::start_by(inherits, "-U {}/s memory 1M");
    drop(greeted(&agent.path("s")));
    agent.end();
}

/// The variables are meant for another process, and so not for a child of the agent either.
#[test]
fn children_do_not_see_the_variables() {
    let dir = TempDir::new().unwrap();
    let seen = dir.path().join("env");
    let script = r#"
LISTEN_PID=$PPID LISTEN_FDS=1 LISTEN_FDNAMES=x LISTEN_PIDFDID=1 KEPT=1 exec "$@""#;
    let status = Command::new("sh")
        .args(["-c", script, "sh", BINARY, "--run"])
        .arg(format!("env >{}", seen.display()))
        .args(["null", "1M"])
        .stderr(process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("KEPT=1"), "{seen}");
    assert!(!seen.contains("LISTEN_"), "{seen}");
}

#[test]
fn libnbd_starts_it_by_socket_activation() {
    let script = format!(
        r#"
h.connect_systemd_socket_activation(["{BINARY}", "memory", "1M"])
assert h.get_size() == 1 << 20
h.pwrite(b"x" * 512, 512)
assert h.pread(512, 512) == b"x" * 512
h.shutdown()
"#
    );
    let output = Command::new("/usr/bin/python3")
        .args(["-c", &format!("import nbd\nh = nbd.NBD()\n{script}")])
        .output()
        .expect("python3-libnbd is needed (Debian: apt-get install python3-libnbd)");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("(socket activation)"), "{stderr}");
}
