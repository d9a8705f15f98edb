//! The commands against three servers, over Unix sockets and TCP, byte for byte: what they wrote is
//! looked for in the server's file, and what they read is what is in it.
//!
//! nbdkit and qemu-nbd get a socket that listens already, as systemd would hand it over, and the
//! agent says where it listens: nothing is polled, and no port is guessed.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{fs::FileExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

const TOOL: &str = env!("CARGO_BIN_EXE_guest-tools");
const SIZE: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Unix,
    Tcp,
}

use Transport::{Tcp, Unix};

/// A server of one sparse file; ended when dropped.
struct Server {
    child: Child,
    uri: String,
    disk: PathBuf,
    dir: TempDir,
}

impl Server {
    /// `command`, a shell's, serves the file `$disk`.
    fn activated(command: &str, transport: Transport) -> Self {
        let (dir, disk) = sparse();
        let (listener, uri) = match transport {
            Unix => {
                let path = dir.path().join("sock");
                let listener = UnixListener::bind(&path).expect("a Unix socket");
                (OwnedFd::from(listener), format!("nbd+unix:///?socket={}", path.display()))
            }
            Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").expect("a TCP socket");
                let address = listener.local_addr().expect("an address");
                (OwnedFd::from(listener), format!("nbd://{address}/"))
            }
        };
        let program = command.split(' ').next().unwrap_or_default();
        let found = Command::new(program).arg("--version").output();
        assert!(found.is_ok(), "{program} is needed: apt-get install nbdkit qemu-utils");
        let script = format!(
            "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; \
             exec {command}"
        );
        let child = Command::new("sh")
            .args(["-c", &script])
            .env("disk", &disk)
            .stdin(Stdio::from(listener))
            .spawn()
            .expect("sh starts");
        Self { child, uri, disk, dir }
    }

    fn nbdkit(transport: Transport) -> Self {
        Self::activated(r#"nbdkit -f file "$disk""#, transport)
    }

    fn qemu_nbd(transport: Transport) -> Self {
        Self::activated(r#"qemu-nbd --persistent --format raw "$disk""#, transport)
    }

    fn agent(transport: Transport) -> Self {
        let (dir, disk) = sparse();
        let mut command = Command::new(agent());
        match transport {
            Unix => command.arg("-U").arg(dir.path().join("sock")),
            Tcp => command.args(["--listen", "tcp:127.0.0.1:0"]),
        };
        let mut child = command
            .args(["--print-uri", "--log", "null", "file"])
            .arg(&disk)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let mut uri = String::new();
        let said = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut uri);
        said.expect("the agent says where it listens");
        Self { child, uri: uri.trim().to_owned(), disk, dir }
    }

    fn tool(&self, verb: &str, words: &[&str]) -> Output {
        let mut command = Command::new(TOOL);
        command.arg(verb).arg(&self.uri).args(words).stdin(Stdio::null());
        command.output().expect("guest-tools starts")
    }

    /// Its standard output, when it succeeds.
    fn does(&self, verb: &str, words: &[&str]) -> Vec<u8> {
        let output = self.tool(verb, words);
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb} {words:?} on {}: {why}", self.uri);
        output.stdout
    }

    /// What it says, when it fails with exit code 1.
    fn fails(&self, verb: &str, words: &[&str]) -> String {
        let output = self.tool(verb, words);
        assert_eq!(output.status.code(), Some(1), "{verb} {words:?} on {}", self.uri);
        let why = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(why.starts_with("guest-tools: error: "), "{why}");
        why
    }

    /// What is in the server's file.
    fn holds(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let file = fs::File::open(&self.disk).expect("the disk");
        file.read_exact_at(&mut bytes, at).expect("inside the disk");
        bytes
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("it can be ended");
        self.child.wait().expect("it ends");
    }
}

fn sparse() -> (TempDir, PathBuf) {
    let dir = TempDir::with_prefix("guest-tools-test-").expect("a temporary directory");
    let disk = dir.path().join("disk");
    let file = fs::File::create(&disk).expect("a file");
    file.set_len(SIZE).expect("its length");
    (dir, disk)
}

/// The agent, built beside the tool under test in the same profile: cargo builds the binaries of
/// the tested package only.
fn agent() -> PathBuf {
    let built = Path::new(TOOL).parent().expect("a profile's directory");
    let target = built.parent().expect("the target directory");
    let profile = match built.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--package", "agent", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.expect("cargo starts").success(), "the agent does not build");
    built.join("agent")
}

/// Bytes without a period that any block or piece could hide behind.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// The pattern, made in another way than the tool does.
fn pattern(at: u64, len: usize) -> Vec<u8> {
    let skip = usize::try_from(at % 8).expect("small");
    (at - at % 8..).step_by(8).flat_map(u64::to_be_bytes).skip(skip).take(len).collect()
}

fn whole_story(server: &Server) {
    let told: serde_json::Value =
        serde_json::from_slice(&server.does("info", &["--json"])).expect("JSON");
    assert_eq!((&told["size"], &told["read-only"]), (&SIZE.into(), &false.into()));

    // Neither the offset nor the length is a multiple of anything, and it is more than is in flight.
    let bytes = noise(9_000_001);
    let (input, output) = (server.dir.path().join("in"), server.dir.path().join("out"));
    fs::write(&input, &bytes).expect("the input");
    let (input, output) = (input.to_str().expect("UTF-8"), output.to_str().expect("UTF-8"));
    server.does("write", &["--offset", "12345", "--in", input]);
    assert!(server.holds(12345, bytes.len()) == bytes, "the server's file is not what was written");
    let range = ["--offset", "12345", "--length", "9000001"];
    assert!(server.does("read", &range) == bytes, "what is read is not what is there");
    server.does("read", &[&range[..], &["--out", output]].concat());
    assert!(fs::read(output).expect("the output") == bytes, "the output is not what is there");
    // The head and the tail are holes, the middle is not.
    let all = server.does("read", &[]);
    assert!(all == server.holds(0, all.len()) && all.len() as u64 == SIZE, "holes and data");

    server.does("write", &["--pattern", "--offset", "3", "--length", "3000005", "--fua"]);
    assert!(server.holds(3, 3_000_005) == pattern(3, 3_000_005), "the file has not the pattern");
    let range = ["--verify-pattern", "--offset", "3", "--length", "3000005"];
    assert!(server.does("read", &range).is_empty(), "a verification prints no data");
    let file = fs::File::options().write(true).open(&server.disk).expect("the disk");
    file.write_all_at(&[0xff], 2_000_000).expect("a wrong byte");
    let why = server.fails("read", &range);
    assert!(why.contains("1 of 3000005 bytes are not the pattern, the first at 2000000"), "{why}");

    let before = server.holds(0, 1 << 20);
    let why = server.fails("write", &["--pattern", "--offset", "15M", "--length", "1025k"]);
    assert!(why.contains("beyond the end of the export, 16777216 bytes"), "{why}");
    assert!(server.holds(0, 1 << 20) == before && server.holds(SIZE - 8, 8) == [0; 8], "untouched");
    let why = server.fails("read", &["--offset", "17M"]);
    assert!(why.contains("beyond the end of the export"), "{why}");
    let why = server.fails("write", &["--offset", "17M"]);
    assert!(why.contains("beyond the end of the export"), "{why}");
}

#[test]
fn nbdkit_on_a_unix_socket() {
    whole_story(&Server::nbdkit(Unix));
}

#[test]
fn nbdkit_on_tcp() {
    whole_story(&Server::nbdkit(Tcp));
}

#[test]
fn qemu_nbd_on_a_unix_socket() {
    whole_story(&Server::qemu_nbd(Unix));
}

#[test]
fn qemu_nbd_on_tcp() {
    whole_story(&Server::qemu_nbd(Tcp));
}

#[test]
fn the_agent_on_a_unix_socket() {
    whole_story(&Server::agent(Unix));
}

#[test]
fn the_agent_on_tcp() {
    whole_story(&Server::agent(Tcp));
}
