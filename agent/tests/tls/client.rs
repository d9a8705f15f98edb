//! A client that says exactly what it is told to, in plain text and inside TLS; libnbd's tools.

use std::{
    io::{BufRead, BufReader, Lines, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{
    agent::{Agent, BINARY, greeted},
    certificates::Ca,
};

pub(crate) const LIST: u32 = 3;
pub(crate) const STARTTLS: u32 = 5;
pub(crate) const INFO: u32 = 6;
pub(crate) const GO: u32 = 7;
pub(crate) const STRUCTURED_REPLY: u32 = 8;
pub(crate) const SET_META_CONTEXT: u32 = 10;

pub(crate) const ACK: u32 = 1;
pub(crate) const ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const ERR_TLS_REQD: u32 = 0x8000_0005;

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

/// Greeted, and with the flags of fixed newstyle without zeroes sent.
pub(crate) fn plain(agent: &Agent) -> UnixStream {
    let mut stream = greeted(&agent.path("socket"));
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream
}

pub(crate) fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [b"IHAVEOPT", &option.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}

/// Sends an option; the types of its replies, up to the one that ends them.
pub(crate) fn ask(stream: &mut (impl Read + Write), option: u32, data: &[u8]) -> Vec<u32> {
    stream.write_all(&option_bytes(option, data)).unwrap();
    replies(stream, option)
}

/// The types of the replies to an option that was sent, up to the one that ends them.
pub(crate) fn replies(stream: &mut impl Read, option: u32) -> Vec<u32> {
    let mut replies = Vec::new();
    loop {
        let mut header = [0; 20];
        stream.read_exact(&mut header).unwrap();
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(number(8), option, "the option that is answered");
        let mut data = vec![0; number(16) as usize];
        stream.read_exact(&mut data).unwrap();
        replies.push(number(12));
        if number(12) == ACK || number(12) >= 0x8000_0000 {
            return replies;
        }
    }
}

/// STARTTLS and the handshake; trusts what is in `{}/trust`.
pub(crate) fn secured(agent: &Agent) -> Secure {
    let mut stream = plain(agent);
    assert_eq!(ask(&mut stream, STARTTLS, b""), [ACK]);
    let mut secure = handshake(agent, stream);
    secure.flush().unwrap();
    secure
}

/// The handshake comes with the first byte that is sent or received.
pub(crate) fn handshake(agent: &Agent, stream: UnixStream) -> Secure {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(agent.path("trust/ca-cert.pem")).unwrap();
    roots.add(ca).unwrap();
    // Named, because a build of the whole workspace has two: guest-tools takes the other.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

/// The default export, in simple replies.
pub(crate) fn go(stream: &mut (impl Read + Write)) {
    assert_eq!(ask(stream, GO, &[0; 6]).last(), Some(&ACK));
}

/// A URI of `scheme` (nbd or nbds) for the agent's Unix socket, with certificates in `directory`.
pub(crate) fn uri(agent: &Agent, scheme: &str, directory: &str) -> String {
    let (socket, directory) = (agent.path("socket"), agent.path(directory));
    let uri = format!("{scheme}+unix://localhost/?socket={}", socket.display());
    if scheme == "nbds" { format!("{uri}&tls-certificates={}", directory.display()) } else { uri }
}

/// Runs a client to its end.
pub(crate) fn run(program: &str, package: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|error| {
        panic!("cannot run {program}: {error}; install the Debian package {package}")
    })
}

/// Runs a client that is to succeed; its stdout.
pub(crate) fn succeeds(program: &str, package: &str, args: &[&str]) -> String {
    let output = run(program, package, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}{errors}", output.status);
    text
}

/// `nbdinfo --size`: the size, or what it says on stderr.
pub(crate) fn size(uri: &str) -> Result<u64, String> {
    let output = run("nbdinfo", "libnbd-bin", &["--size", uri]);
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse().unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Bytes that do not compress to a pattern.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut seed = 0x2545_f491_u32;
    std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed.to_be_bytes()[1]
    })
    .take(len)
    .collect()
}

/// A file of the agent's directory, as a word.
pub(crate) fn word(agent: &Agent, path: impl AsRef<Path>) -> String {
    agent.dir.path().join(path).to_str().unwrap().to_owned()
}

/// A client by libnbd that stays.
pub(crate) struct Guest {
    child: Child,
    /// What it says.
    lines: Lines<BufReader<ChildStdout>>,
}

impl Guest {
    /// One that is in.
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

    /// Whether it still can read.
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
