//! Exit codes, the one line of an error, and which output goes where.

use std::{
    io::{BufRead, Read},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
};

use nbd::uri::{Place, Uri};
use support::{agent::Agent, client::receive_greeting, process::fails_with};

use crate::BINARY;

#[test]
fn a_wrong_command_line_is_one_line_and_exit_code_1_as_nbdkit_has_it() {
    for words in [
        "",
        "--nonsense null",
        "--port",
        "--filter=luks null",
        "-U /s -p 1 null",
        "--log=nowhere null",
        "no-such-plugin",
        "-U /nonexistent/socket null",
    ] {
        let (code, stderr) = fails_with(BINARY, words);
        assert_eq!(code, 1, "{words}: {stderr}");
        assert!(stderr.starts_with("agent: error: "), "{words}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{words}: {stderr}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for (word, part) in [("--help", "--shutdown-timeout"), ("--version", "agent ")] {
        let output = Command::new(BINARY).arg(word).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains(part));
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_failure_is_one_line_with_the_cause_and_the_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (words, parts) in [
        (
            format!("-i 127.0.0.1 -p {port} null"),
            &["cannot listen on tcp:127.0.0.1:", "Address already in use", "ss -lntp"][..],
        ),
        (
            // TEST-NET-1, RFC 5737: no machine has this address.
            "-i 192.0.2.1 null".to_owned(),
            &["tcp:192.0.2.1:10809", "Cannot assign requested address", "ip address"],
        ),
        (
            "--listen vsock:77777777:1 null".to_owned(),
            &["vsock:77777777:1", "CID 77777777 is none of this machine's"],
        ),
        ("-U /nonexistent/s null".to_owned(), &["unix:/nonexistent/s", "mkdir -p /nonexistent"]),
        ("-6 -i 127.0.0.1 null".to_owned(), &["'127.0.0.1' has no IPv6 address", "leave -6 out"]),
    ] {
        let (code, stderr) = fails_with(BINARY, &words);
        assert_eq!(code, 1, "{words}");
        assert_eq!(stderr.lines().count(), 1, "{words}: {stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{words}: {stderr}");
    }
}

#[test]
fn a_uri_is_printed_for_each_listener_once_it_listens() {
    // Above 2^31, and different in each test process.
    let vsock = 3_000_000_000 + std::process::id();
    let mut agent = Agent::start(
        BINARY,
        &format!(
            "--print-uri -e a/b? -U {{}}/s --listen tcp:127.0.0.1:0 --listen tcp:0 \
         --listen vsock:4294967295 --listen vsock:{vsock} --listen unix:- memory 1M",
        ),
    );
    let dir = agent.dir.path().display().to_string();
    let uris: Vec<String> = agent.stdout().lines().take(6).map(Result::unwrap).collect();
    assert_eq!(uris[0], format!("nbd+unix:///a/b%3F?socket={dir}/s"));
    let port = |uri: &str, before: &str| -> u16 {
        let rest = uri.strip_prefix(before).unwrap_or_else(|| panic!("{uri}"));
        rest.strip_suffix("/a/b%3F").expect("the export").parse().expect("a port")
    };
    let tcp = [port(&uris[1], "nbd://127.0.0.1:"), port(&uris[2], "nbd://localhost:")];
    assert!(uris[3].starts_with("nbd+vsock://2:"), "{uris:?}");
    assert_ne!(uris[3], "nbd+vsock://2:4294967295/a/b%3F", "the port that was found");
    assert_eq!(uris[4], format!("nbd+vsock://2:{vsock}/a/b%3F"));
    assert!(uris[5].starts_with(&format!("nbd+unix:///a/b%3F?socket={dir}/agent")), "{uris:?}");
    // Our own client parses them as intended, including the export's name.
    for uri in &uris {
        let read: Uri = uri.parse().unwrap_or_else(|error| panic!("{uri}: {error}"));
        assert_eq!(read.export, "a/b?", "{uri}");
        if let Place::Vsock { cid, .. } = read.place {
            assert_eq!(cid.get(), 2, "{uri}");
        }
    }
    for port in tcp {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        receive_greeting(&mut stream);
    }
    agent.end();
}

#[test]
fn without_a_listener_option_it_is_tcp_on_all_addresses() {
    // Another port, because the default port may be in use on this machine. What the agent does
    // without any option is tested in `cli`.
    let mut agent = Agent::start(BINARY, "--print-uri -p 0 null 1M");
    let mut uris = agent.stdout().lines().map(Result::unwrap);
    let port: u16 = uris.next().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
    let mut v4 = TcpStream::connect(("127.0.0.1", port)).unwrap();
    receive_greeting(&mut v4);
    let lines = agent.end().join("\n");
    assert!(lines.contains(&format!("listening on tcp:0.0.0.0:{port}")), "{lines}");
    assert_eq!(uris.next(), None, "one URI for both families");
}

#[test]
fn an_error_is_said_where_stdout_and_stderr_are_one_socket() {
    // As for a service of systemd: all streams lead to the journal.
    let (mut journal, ours) = UnixStream::pair().unwrap();
    let end = || Stdio::from(OwnedFd::from(ours.try_clone().unwrap()));
    let mut child = Command::new(BINARY)
        .args(["-U", "/nonexistent/s", "null"])
        .stdin(Stdio::null())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    drop(ours);
    let mut said = String::new();
    journal.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(said.contains("agent: error: cannot listen on unix:/nonexistent/s"), "{said}");
}
