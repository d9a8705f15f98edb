//! Real servers for the commands of guest-tools: nbdkit, qemu-nbd and the agent.
//!
//! nbdkit and qemu-nbd get a socket that listens already, as from systemd. The agent prints where it listens. So no
//! test polls, and no test guesses a port.

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

/// The size of a server's disk, in bytes.
pub const SIZE: u64 = 16 << 20;

/// How clients reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A Unix socket.
    Unix,
    /// TCP on 127.0.0.1.
    Tcp,
}

use Transport::{Tcp, Unix};

/// A server of one sparse file, and the guest-tools under test. The server ends when its value is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    tool: PathBuf,
    /// Its default export.
    pub uri: String,
    /// The file that it serves.
    pub disk: PathBuf,
    /// A directory for the test's files, removed with the server.
    pub dir: TempDir,
}

impl Server {
    /// A server by socket activation. `command` is a shell's and serves the file `$disk`; `tool` is guest-tools.
    pub fn activated(tool: &str, command: &str, transport: Transport) -> Self {
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
        Self { child, tool: tool.into(), uri, disk, dir }
    }

    /// nbdkit with its plugin `file`.
    pub fn nbdkit(tool: &str, transport: Transport) -> Self {
        Self::activated(tool, r#"nbdkit -f file "$disk""#, transport)
    }

    /// qemu-nbd for any number of clients, one after the other.
    pub fn qemu_nbd(tool: &str, transport: Transport) -> Self {
        Self::activated(tool, r#"qemu-nbd --persistent --format raw "$disk""#, transport)
    }

    /// The agent with its plugin `file`.
    pub fn agent(tool: &str, transport: Transport) -> Self {
        let (dir, disk) = sparse();
        let mut command = Command::new(agent(tool));
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
        Self { child, tool: tool.into(), uri: uri.trim().to_owned(), disk, dir }
    }

    /// Runs `guest-tools VERB URI WORDS`.
    pub fn tool(&self, verb: &str, words: &[&str]) -> Output {
        let mut command = Command::new(&self.tool);
        command.arg(verb).arg(&self.uri).args(words).stdin(Stdio::null());
        command.output().expect("guest-tools starts")
    }

    /// Runs guest-tools, which has to succeed; its standard output.
    pub fn does(&self, verb: &str, words: &[&str]) -> Vec<u8> {
        let output = self.tool(verb, words);
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb} {words:?} on {}: {why}", self.uri);
        output.stdout
    }

    /// Runs guest-tools, which has to fail with exit code 1; its standard error.
    pub fn fails(&self, verb: &str, words: &[&str]) -> String {
        let output = self.tool(verb, words);
        assert_eq!(output.status.code(), Some(1), "{verb} {words:?} on {}", self.uri);
        let why = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(why.starts_with("guest-tools: error: "), "{why}");
        why
    }

    /// A part of the server's file.
    pub fn holds(&self, at: u64, len: usize) -> Vec<u8> {
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

/// Builds the agent, and returns its path: `tool`'s directory.
///
/// Cargo builds the binaries of the tested package alone, so a test of guest-tools may find no agent or an old one.
/// The command is that of the tests of the whole workspace: after these nothing is left to build.
pub fn agent(tool: &str) -> PathBuf {
    let built = Path::new(tool).parent().expect("a profile's directory");
    let target = built.parent().expect("the target directory");
    let profile = match built.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    // Cargo's variables for this test would make build scripts that look at them run again, and rebuild all that
    // depends on them.
    for (key, _) in env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("CARGO_")) {
        if key != "CARGO_HOME" {
            command.env_remove(key);
        }
    }
    let status = command
        .args(["build", "--quiet", "--locked", "--workspace", "--tests", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.expect("cargo starts").success(), "the agent does not build");
    built.join("agent")
}
