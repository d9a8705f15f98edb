//! A client that sends exactly what it is told to, in plain text and inside TLS; libnbd's tools.

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use support::{
    DEADLINE,
    agent::Agent,
    certificates::Ca,
    client::{ask, greeted},
    process::{run, succeeds},
    random::Random,
    wire::{CLIENT_FLAGS, OPT_GO, OPT_STARTTLS, REP_ACK, export},
};

use crate::BINARY;

/// TLS over a Unix socket.
pub(crate) type Secure = StreamOwned<ClientConnection, UnixStream>;

/// An agent on `{}/socket` with certificates in `{}/server`; the CA's alone are in `{}/trust`.
pub(crate) fn agent(words: &str) -> (Agent, Ca) {
    let ca = Ca::new("the CA");
    let agent = Agent::start_by_in(
        Command::new(BINARY),
        |directory| {
            ca.server_in(&directory.join("server"));
            ca.trusted_in(&directory.join("trust"));
        },
        &format!("-v -U {{}}/socket --tls-certificates {{}}/server {words}"),
    );
    (agent, ca)
}

/// A stream that has received the greeting and sent the flags of fixed newstyle without zeroes.
pub(crate) fn plain(agent: &Agent) -> UnixStream {
    let mut stream = greeted(&agent.path("socket"));
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&CLIENT_FLAGS).unwrap();
    stream
}

/// Sends STARTTLS and does the handshake. Trusts the CA in `{}/trust`.
pub(crate) fn secured(agent: &Agent) -> Secure {
    let mut stream = plain(agent);
    assert_eq!(ask(&mut stream, OPT_STARTTLS, b""), [REP_ACK]);
    let mut secure = handshake(agent, stream);
    secure.flush().unwrap();
    secure
}

/// The handshake happens with the first byte that is sent or received.
pub(crate) fn handshake(agent: &Agent, stream: UnixStream) -> Secure {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(agent.path("trust/ca-cert.pem")).unwrap();
    roots.add(ca).unwrap();
    // Named, because a build of the whole workspace has two: guest-tools uses the other.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

/// Enters the default export, with simple replies.
pub(crate) fn go(stream: &mut (impl Read + Write)) {
    assert_eq!(ask(stream, OPT_GO, &export("")).last(), Some(&REP_ACK));
}

/// A URI of `scheme` (nbd or nbds) for the agent's Unix socket, with certificates in `directory`.
pub(crate) fn uri(agent: &Agent, scheme: &str, directory: &str) -> String {
    let (socket, directory) = (agent.path("socket"), agent.path(directory));
    let uri = format!("{scheme}+unix://localhost/?socket={}", socket.display());
    if scheme == "nbds" { format!("{uri}&tls-certificates={}", directory.display()) } else { uri }
}

/// The size that `nbdinfo --size` prints, or its output on stderr.
pub(crate) fn size(uri: &str) -> Result<u64, String> {
    let output = run("nbdinfo", "libnbd-bin", &["--size", uri]);
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse().unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A file of the agent's directory, as a word.
pub(crate) fn word(agent: &Agent, path: impl AsRef<Path>) -> String {
    agent.dir.path().join(path).to_str().unwrap().to_owned()
}

/// A client of libnbd that stays connected.
pub(crate) struct Guest {
    child: Child,
    /// Its output.
    lines: Lines<BufReader<ChildStdout>>,
}

impl Guest {
    /// Connects a client and waits until it has opened the export.
    pub(crate) fn connect(uri: &str) -> Self {
        let script = "import nbd, sys
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.connect_uri(sys.argv[1])
print('in', flush=True)
for _ in sys.stdin:
    try:
        h.pread(512, 0)
        print('in', flush=True)
    except nbd.Error:
        print('out', flush=True)";
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", script, uri])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3-libnbd is installed");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut guest = Self { child, lines };
        assert_eq!(guest.line(), "in");
        guest
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("it says something").unwrap()
    }

    /// Whether the client can still read.
    pub(crate) fn is_in(&mut self) -> bool {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.line() == "in"
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// nbdcopy writes an image to `uri` and reads it back. The export is 20 MiB.
pub(crate) fn assert_copies_in_and_out(agent: &Agent, uri: &str) {
    let (image, back) = (word(agent, "image"), word(agent, "back"));
    let mut data = Random::new(1).bytes(9 << 20);
    data.resize((20 << 20) - 100, 0);
    data.extend(Random::new(2).bytes(100));
    fs::write(&image, &data).unwrap();
    succeeds("nbdcopy", "libnbd-bin", &[&image, uri]);
    succeeds("nbdcopy", "libnbd-bin", &["--flush", uri, &back]);
    assert!(fs::read(&back).unwrap() == data, "the image came back otherwise");
}
