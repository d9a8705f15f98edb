//! The real inetd and xinetd with the shipped examples: each client has its own agent on stdin,
//! stdout and stderr.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, getuid},
};
use support::{DEADLINE, client::receive_greeting, until};
use tempfile::TempDir;

use crate::BINARY;

/// inetd writes and removes /run/inetd.pid, which belongs to the machine's own inetd. With permission
/// the test has a /run of its own; without, it cannot write to the real one either.
const OWN_RUN: &str = r#"
if unshare --mount true 2>/dev/null; then
    exec unshare --mount sh -c 'mount -t tmpfs tmpfs /run && exec "$@"' sh "$@"
fi
exec "$@"
"#;

/// A superserver in the foreground with a service on a free loopback port. It is ended when dropped.
struct Superserver {
    child: Child,
    port: u16,
    dir: TempDir,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Inetd,
    Xinetd,
}

impl Kind {
    /// The program that tests/run has unpacked, otherwise the installed one.
    fn program(self) -> PathBuf {
        let (package, name) = match self {
            Self::Inetd => ("openbsd-inetd", "inetd"),
            Self::Xinetd => ("xinetd", "xinetd"),
        };
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let unpacked = top.join("target/peers").join(package).join("usr/sbin").join(name);
        let installed = Path::new("/usr/sbin").join(name);
        [unpacked, installed].into_iter().find(|path| path.exists()).unwrap_or_else(|| {
            panic!("{package} is needed: tests/run unpacks it (Debian: apt-get install {package})")
        })
    }

    /// The shipped example with its service, user, program and words replaced.
    fn config(self, port: u16, words: &str) -> String {
        let name = match self {
            Self::Inetd => "nbd.inetd",
            Self::Xinetd => "nbd.xinetd",
        };
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("inetd").join(name);
        let example = fs::read_to_string(example).unwrap();
        let user = User::from_uid(getuid()).unwrap().expect("a user with a name").name;
        let edits = match self {
            Self::Inetd => [
                ("\nnbd stream".to_owned(), format!("\n127.0.0.1:{port} stream")),
                (" root ".to_owned(), format!(" {user} ")),
                ("/usr/bin/agent".to_owned(), BINARY.to_owned()),
                ("-s file /var/lib/nbd/disk.img".to_owned(), words.to_owned()),
            ],
            Self::Xinetd => [
                (
                    "socket_type".to_owned(),
                    format!(
                        "type = UNLISTED\nport = {port}\nbind = 127.0.0.1\nprotocol = tcp\nsocket_type"
                    ),
                ),
                ("= root".to_owned(), format!("= {user}")),
                ("/usr/bin/agent".to_owned(), BINARY.to_owned()),
                ("-s file /var/lib/nbd/disk.img".to_owned(), words.to_owned()),
            ],
        };
        edits.iter().fold(example, |text, (from, to)| {
            assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
            text.replacen(from, to, 1)
        })
    }
}

impl Superserver {
    /// `words` are the agent's. `{}` in them is the test's directory.
    fn start(kind: Kind, words: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let config = dir.path().join("config");
        let words = words.replace("{}", dir.path().to_str().unwrap());
        fs::write(&config, kind.config(port, &words)).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", OWN_RUN, "sh"]).arg(kind.program());
        match kind {
            Kind::Inetd => command.arg("-i").arg(&config),
            Kind::Xinetd => command
                .arg("-dontfork")
                .arg("-f")
                .arg(&config)
                .arg("-filelog")
                .arg(dir.path().join("log"))
                .arg("-pidfile")
                .arg(dir.path().join("pid")),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port, dir }
    }

    /// Connects once it listens.
    fn connect(&mut self) -> TcpStream {
        let mut connected = None;
        until("it listens", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it has ended: {ended:?}");
            connected = TcpStream::connect(("127.0.0.1", self.port)).ok();
            connected.is_some()
        });
        let stream = connected.unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }
}

impl Drop for Superserver {
    fn drop(&mut self) {
        // TERM, so that it removes its files. It may have exited already.
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).ok();
        self.child.wait().ok();
    }
}

fn serves(kind: Kind) {
    let mut server = Superserver::start(kind, "-s file {}/disk");
    let disk = server.dir.path().join("disk");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    // Two at once, with an agent each.
    let (mut one, mut two) = (server.connect(), server.connect());
    receive_greeting(&mut one);
    receive_greeting(&mut two);
    let script = format!(
        r#"
import nbd
for i in range(3):
    h = nbd.NBD()
    h.connect_uri("nbd://127.0.0.1:{}")
    assert h.get_size() == 1 << 20
    assert h.pread(1, 512 * i) == b"\0"
    h.pwrite(b"x" * 512, 512 * i)
    h.flush()
    h.shutdown()
"#,
        server.port
    );
    let output = Command::new("/usr/bin/python3").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(&disk).unwrap().starts_with(&[b'x'; 3 * 512]));
    // NBD_OPT_ABORT and its acknowledgement, then the end.
    for mut client in [one, two] {
        client.write_all(&3_u32.to_be_bytes()).unwrap();
        client.write_all(b"IHAVEOPT\x00\x00\x00\x02\x00\x00\x00\x00").unwrap();
        let mut last = Vec::new();
        client.read_to_end(&mut last).unwrap();
        assert_eq!(last, b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x02\0\0\0\x01\0\0\0\0");
    }
}

/// stderr is the client's socket, so neither the log nor an error may be written there.
fn says_nothing_else(kind: Kind) {
    let mut server = Superserver::start(kind, "-v -s memory 1M");
    let mut client = server.connect();
    receive_greeting(&mut client);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "only the end comes");
    for words in ["-s no-such-plugin", "-s -p 1 null", "-s --help"] {
        let mut server = Superserver::start(kind, words);
        assert_eq!(server.connect().read(&mut [0]).unwrap(), 0, "{words}: only the end comes");
    }
}

#[test]
fn inetd_starts_an_agent_a_client() {
    serves(Kind::Inetd);
}

#[test]
fn xinetd_starts_an_agent_a_client() {
    serves(Kind::Xinetd);
}

#[test]
fn inetd_sends_the_client_nothing_but_nbd() {
    says_nothing_else(Kind::Inetd);
}

#[test]
fn xinetd_sends_the_client_nothing_but_nbd() {
    says_nothing_else(Kind::Xinetd);
}
