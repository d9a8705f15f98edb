//! `connect`: bytes go both ways, and the end of one way leaves the other open.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    process::{Command, Stdio},
    thread,
};

use support::server::{Server, Transport::Unix};
use tempfile::TempDir;

use crate::{TOOL, json};

/// A listener whose one client is handled by `serve`, and what `connect` wrote and said to it.
fn with_listener(
    input: &[u8],
    words: &[&str],
    serve: impl FnOnce(UnixStream) + Send + 'static,
) -> (Vec<u8>, String, Option<i32>) {
    let dir = TempDir::with_prefix("guest-tools-test-").expect("a directory");
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).expect("a listener");
    let served = thread::spawn(move || serve(listener.accept().expect("a client").0));
    let mut child = Command::new(TOOL)
        .arg("connect")
        .arg(format!("nbd+unix:///?socket={}", path.display()))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // Its end closes the pipe. One that nobody reads is no matter here.
    let fed = thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().expect("it ends");
    fed.join().expect("the input");
    served.join().expect("the server");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    (output.stdout, said, output.status.code())
}

#[test]
fn the_end_of_the_input_closes_one_way_only() {
    let question = vec![7; 3_000_000];
    let due = question.clone();
    let (answer, said, code) = with_listener(&question, &["--json"], move |mut socket| {
        let mut heard = Vec::new();
        socket.read_to_end(&mut heard).expect("the question and its end");
        assert!(heard == due);
        // Only now, when nothing can come any more.
        socket.write_all(&vec![9; 2_000_000]).expect("the answer");
    });
    assert_eq!((code, answer.len()), (Some(0), 2_000_000));
    let told = json(said.as_bytes());
    assert_eq!((&told["sent"], &told["received"]), (&3_000_000.into(), &2_000_000.into()));
}

#[test]
fn the_end_of_the_other_end_leaves_time_for_what_is_under_way() {
    let question = vec![7; 3_000_000];
    let (answer, said, code) = with_listener(&question, &[], move |mut socket| {
        socket.write_all(b"bye").expect("a greeting");
        socket.shutdown(Shutdown::Write).expect("half");
        let mut heard = Vec::new();
        socket.read_to_end(&mut heard).expect("all of it");
        assert_eq!(heard.len(), 3_000_000);
    });
    assert_eq!((answer.as_slice(), said.as_str(), code), (&b"bye"[..], "", Some(0)));
}

#[test]
fn a_server_says_its_greeting() {
    let server = Server::nbdkit(TOOL, Unix);
    assert!(server.does("connect", &[]).starts_with(b"NBDMAGICIHAVEOPT"));
}

#[test]
fn what_is_not_there_or_not_raw_is_an_error() {
    for (uri, says) in [
        ("nbd+unix:///?socket=/nonexistent/socket", "there is no such socket"),
        ("nbds+unix:///?socket=/nonexistent/socket", "connect is a raw pipe"),
        ("nbd+vsock://4294967296/", "CID"),
        ("4294967296", "port"),
        ("host:7", "does not begin with nbd://"),
    ] {
        let output = Command::new(TOOL).args(["connect", uri]).stdin(Stdio::null()).output();
        let output = output.expect("it starts");
        let why = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!((output.status.code(), why.lines().count()), (Some(1), 1), "{why}");
        assert!(why.contains(says), "{uri}: {why}");
    }
}
