//! `probe` against Unix sockets. Of vsock it is tried in guests, and its checks beside the code.

use std::{
    io::Write,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    process::{Command, Output, Stdio},
    thread,
};

use support::server::{Server, Transport::Unix};
use tempfile::TempDir;

use crate::{TOOL, json, servers};

fn verdicts(told: &serde_json::Value) -> Vec<String> {
    let findings = told["findings"].as_array().expect("findings");
    let word = |value: &serde_json::Value| value.as_str().expect("a word").to_owned();
    findings.iter().map(|f| format!("{} {}", word(&f["id"]), word(&f["verdict"]))).collect()
}

#[test]
fn a_server_that_can_be_used_is_exit_0() {
    for server in servers() {
        let told = json(&server.does("probe", &["--json"]));
        assert_eq!(told["works"], true);
        assert_eq!(verdicts(&told), ["connect ok", "server ok", "export ok"]);
        let text = String::from_utf8(server.does("probe", &[])).expect("UTF-8");
        assert!(text.contains("ok       export: \"\": 16777216 bytes (16.0 MiB)\n"), "{text}");
    }
}

#[test]
fn an_export_that_is_not_there_is_a_warning() {
    let server = Server::qemu_nbd(TOOL, Unix);
    let uri = server.uri.replace("nbd+unix:///?", "nbd+unix:///other?");
    let output = Command::new(TOOL).args(["probe", &uri, "--json"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(0));
    let told = json(&output.stdout);
    assert_eq!(verdicts(&told), ["connect ok", "server ok", "export warning"]);
    assert!(told["findings"][2]["hint"].as_str().expect("a hint").contains("guest-tools list"));
}

/// What `probe` says of a listener that does something with each connection.
fn of_listener(
    words: &[&str],
    mut serve: impl FnMut(UnixStream) -> bool + Send + 'static,
) -> Output {
    let dir = TempDir::with_prefix("guest-tools-test-").expect("a directory");
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).expect("a listener");
    let served = thread::spawn(move || while serve(listener.accept().expect("a client").0) {});
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let output = Command::new(TOOL).args(["probe", &uri]).args(words).output().expect("it starts");
    served.join().expect("the server");
    output
}

#[test]
fn what_listens_and_is_no_server_is_told_apart() {
    for (greeting, says) in [
        (&b""[..], "a rule of the server may refuse this guest"),
        (b"NBDMAGIC", "ended before a greeting"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2", "is no NBD server"),
    ] {
        let output = of_listener(&[], move |mut socket| {
            socket.write_all(greeting).expect("it is taken");
            false
        });
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains("fault    server: ") && text.contains(says), "{text}");
        let why = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!((output.status.code(), why.lines().count()), (Some(1), 1), "{why}");
    }
    let output = Command::new(TOOL).args(["probe", "nbd+unix:///?socket=/nonexistent/s"]).output();
    let output = output.expect("it starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        text.contains("fault    connect: ") && text.contains("hint: there is no such"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
}

/// The first connections are refused, as by a server that is still starting.
#[test]
fn it_waits_until_it_works() {
    let mut refused = 0;
    let output = of_listener(&["--wait", "60s", "--json"], move |socket| {
        refused += 1;
        if refused < 3 {
            return true;
        }
        let (one, other) = (socket.try_clone().expect("a copy"), socket);
        let mut nbdkit = Command::new("nbdkit")
            .args(["-s", "memory", "1M"])
            .stdin(Stdio::from(OwnedFd::from(one)))
            .stdout(Stdio::from(OwnedFd::from(other)))
            .spawn()
            .expect("nbdkit is needed: apt-get install nbdkit");
        nbdkit.wait().expect("it ends");
        false
    });
    assert_eq!(output.status.code(), Some(0));
    let told = json(&output.stdout);
    assert_eq!(verdicts(&told), ["connect ok", "server ok", "export ok"]);
    assert!(told["waited"].as_f64().expect("seconds") > 0.1, "{told}");
}

#[test]
fn the_wait_has_an_end() {
    let words = ["probe", "nbd+unix:///?socket=/nonexistent/s", "--wait", "300ms", "--json"];
    let output = Command::new(TOOL).args(words).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let waited = json(&output.stdout)["waited"].as_f64().expect("seconds");
    assert!((0.3..30.0).contains(&waited), "{waited}");
    // No wait makes certificates.
    let uri = "nbds+unix:///?socket=/nonexistent/s&tls-certificates=/nonexistent";
    let words = ["probe", uri, "--wait", "1h", "--json"];
    let output = Command::new(TOOL).args(words).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let told = json(&output.stdout);
    let evidence = told["findings"][0]["evidence"].as_str().expect("a text");
    assert!(evidence.contains("cannot use /nonexistent/ca-cert.pem"), "{told}");
}
