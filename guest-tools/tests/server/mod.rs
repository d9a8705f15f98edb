//! Servers to try the commands against. Each test file that wants one has it as a module.
//!
//! nbdkit and qemu-nbd get a socket that listens already, as systemd would hand it over, and the
//! agent says where it listens: nothing is polled, and no port is guessed.

#![allow(dead_code, reason = "no test file uses all of it")]

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

pub(crate) const TOOL: &str = env!("CARGO_BIN_EXE_guest-tools");
pub(crate) const SIZE: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Unix,
    Tcp,
}

use Transport::{Tcp, Unix};

/// A server of one sparse file; ended when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) uri: String,
    pub(crate) disk: PathBuf,
    pub(crate) dir: TempDir,
}

impl Server {
    /// `command`, a shell's, serves the file `$disk`.
    pub(crate) fn activated(command: &str, transport: Transport) -> Self {
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

    pub(crate) fn nbdkit(transport: Transport) -> Self {
        Self::activated(r#"nbdkit -f file "$disk""#, transport)
    }

    pub(crate) fn qemu_nbd(transport: Transport) -> Self {
        Self::activated(r#"qemu-nbd --persistent --format raw "$disk""#, transport)
    }

    pub(crate) fn agent(transport: Transport) -> Self {
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

    pub(crate) fn tool(&self, verb: &str, words: &[&str]) -> Output {
        let mut command = Command::new(TOOL);
        command.arg(verb).arg(&self.uri).args(words).stdin(Stdio::null());
        command.output().expect("guest-tools starts")
    }

    /// Its standard output, when it succeeds.
    pub(crate) fn does(&self, verb: &str, words: &[&str]) -> Vec<u8> {
        let output = self.tool(verb, words);
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb} {words:?} on {}: {why}", self.uri);
        output.stdout
    }

    /// What it says, when it fails with exit code 1.
    pub(crate) fn fails(&self, verb: &str, words: &[&str]) -> String {
        let output = self.tool(verb, words);
        assert_eq!(output.status.code(), Some(1), "{verb} {words:?} on {}", self.uri);
        let why = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(why.starts_with("guest-tools: error: "), "{why}");
        why
    }

    /// What is in the server's file.
    pub(crate) fn holds(&self, at: u64, len: usize) -> Vec<u8> {
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

/// The agent, built beside the tool under test in the same profile: cargo builds the binaries of the tested
/// package only. As it is for the tests of the whole workspace, where there is nothing left to build then.
pub(crate) fn agent() -> PathBuf {
    let built = Path::new(TOOL).parent().expect("a profile's directory");
    let target = built.parent().expect("the target directory");
    let profile = match built.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    // What cargo says to a test of this package: build scripts that look at it would run anew, and all that
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
