//! `nbds` URIs: against the agent's TLS and nbdkit's, which is GnuTLS, with libnbd's directories.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use support::{
    certificates::{Ca, client},
    server::{
        Server,
        Transport::{self, Tcp, Unix},
        agent,
    },
};
use tempfile::TempDir;

use crate::{TOOL, json};

/// Certificates of one CA for both ends, a directory with the CA alone, and one of another CA.
struct Keys {
    dir: TempDir,
}

impl Keys {
    fn new() -> Self {
        let dir = TempDir::with_prefix("guest-tools-test-").expect("a directory");
        let keys = Self { dir };
        let ca = Ca::new("the CA");
        ca.server_in(&keys.of("server"));
        ca.client_in(&keys.of("client"), client(7));
        ca.trusted_in(&keys.of("trust"));
        Ca::new("another CA").trusted_in(&keys.of("other"));
        keys
    }

    fn of(&self, role: &str) -> PathBuf {
        self.dir.path().join(role)
    }

    fn servers(&self, words: &str, transport: Transport) -> [Server; 2] {
        let words =
            format!("--tls=require --tls-certificates={} {words}", self.of("server").display());
        let agent = agent(TOOL);
        [
            Server::activated(TOOL, &format!("nbdkit -f {words} file $disk"), transport),
            Server::activated(
                TOOL,
                &format!("{} --log null {words} file $disk", agent.display()),
                transport,
            ),
        ]
    }
}

/// The server's URI with TLS and the words that follow.
fn secure(server: &Server, directory: &Path, more: &str) -> String {
    let mark = if server.uri.contains('?') { '&' } else { '?' };
    let uri = server.uri.replacen("nbd", "nbds", 1);
    format!("{uri}{mark}tls-certificates={}{more}", directory.display())
}

fn tool(words: &[&str]) -> Output {
    Command::new(TOOL).args(words).env("HOME", "/nonexistent").output().expect("it starts")
}

fn does(words: &[&str]) -> Vec<u8> {
    let output = tool(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn fails(words: &[&str], says: &str) {
    let output = tool(words);
    let why = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!((output.status.code(), why.lines().count()), (Some(1), 1), "{words:?}: {why}");
    assert!(why.contains(says), "{words:?}: {why}");
}

#[test]
fn everything_works_inside_tls() {
    let keys = Keys::new();
    for server in keys.servers("", Unix) {
        let uri = secure(&server, &keys.of("trust"), "");
        let told = json(&does(&["info", &uri, "--json"]));
        assert_eq!(told["TLS"], true);
        assert_eq!(told["exports"][0]["export-size"], 16 << 20);
        assert!(does(&["info", &uri, "--is", "tls"]).is_empty());
        does(&["write", &uri, "--pattern", "--offset", "3", "--length", "9000001"]);
        does(&["read", &uri, "--verify-pattern", "--offset", "3", "--length", "9000001"]);
        assert!(server.holds(3, 9_000_001)[5..13] == 8_u64.to_be_bytes());
        assert!(does(&["read", &uri]) == server.holds(0, 16 << 20), "all of it");
        does(&["map", &uri, "--totals"]);
        does(&["zero", &uri, "--length", "1M"]);
        // In plain text there is nothing to be had.
        fails(&["info", &server.uri], "TLS");
    }
}

#[test]
fn a_server_is_known_by_its_ca_and_by_its_name_where_it_has_one() {
    let keys = Keys::new();
    for server in keys.servers("", Unix) {
        fails(&["info", &secure(&server, &keys.of("other"), "")], "invalid peer certificate");
        does(&["info", &secure(&server, &keys.of("trust"), "&tls-hostname=localhost")]);
        let uri = secure(&server, &keys.of("trust"), "&tls-hostname=other.example");
        fails(&["info", &uri], "not valid for name");
    }
    for server in keys.servers("", Tcp) {
        does(&["info", &secure(&server, &keys.of("trust"), "")]);
        let uri = secure(&server, &keys.of("trust"), "&tls-hostname=other.example");
        fails(&["info", &uri], "not valid for name");
    }
}

#[test]
fn a_server_may_ask_who_this_is() {
    let keys = Keys::new();
    for server in keys.servers("--tls-verify-peer", Unix) {
        does(&["info", &secure(&server, &keys.of("client"), "")]);
        fails(&["info", &secure(&server, &keys.of("trust"), "")], "");
    }
}

#[test]
fn what_is_missing_is_told_before_anybody_is_connected_to() {
    let keys = Keys::new();
    let nobody = "nbds+unix:///?socket=/nonexistent/s";
    let with = |role: &str| format!("{nobody}&tls-certificates={}", keys.of(role).display());
    fails(&["info", nobody], "tls-certificates=DIR");
    fails(&["info", &with("nothing")], "ca-cert.pem");
    fs::remove_file(keys.of("client").join("client-key.pem")).expect("it was there");
    fails(&["info", &with("client")], "needs the other of");
    fs::write(keys.of("trust").join("ca-crl.pem"), "").expect("a list");
    fails(&["info", &with("trust")], "does not support");
    fs::write(keys.of("other").join("ca-cert.pem"), "nothing\n").expect("a file");
    fails(&["info", &with("other")], "no certificate in it");
    fails(&["info", "nbds://127.0.0.1:1/?tls-psk-file=/x"], "tls-psk-file=/x");
}

#[test]
fn a_server_without_tls_is_not_used() {
    let keys = Keys::new();
    let server = Server::nbdkit(TOOL, Unix);
    fails(&["info", &secure(&server, &keys.of("trust"), "")], "was refused by the server");
}

/// Somebody in between who adds to what the server says before TLS.
#[test]
fn what_comes_early_in_plain_text_is_not_believed() {
    let keys = Keys::new();
    let path = keys.dir.path().join("sock");
    let listener = UnixListener::bind(&path).expect("a listener");
    let served = thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client");
        socket.write_all(b"NBDMAGICIHAVEOPT\0\x03").expect("a greeting");
        let mut asked = [0; 4 + 16];
        socket.read_exact(&mut asked).expect("flags and STARTTLS");
        assert_eq!(&asked[4..], b"IHAVEOPT\0\0\0\x05\0\0\0\0");
        let ack = b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x05\0\0\0\x01\0\0\0\0";
        socket.write_all(&[&ack[..], b"more"].concat()).expect("an answer");
        // The client's end.
        socket.read_to_end(&mut Vec::new()).ok();
    });
    let trust = keys.of("trust");
    let uri =
        format!("nbds+unix:///?socket={}&tls-certificates={}", path.display(), trust.display());
    fails(&["info", &uri], "somebody may be in between");
    served.join().expect("the server");
}
