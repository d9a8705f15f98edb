//! A running agent under test.

use std::{
    fs,
    io::BufReader,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{DEADLINE, client::Client, log::Log, process};

/// Debian: apt-get install nbdkit.
pub const NBDKIT: &str = "nbdkit";

/// An agent that is ready, in a directory of its own. Dropping it kills it; a test that panics gets its log.
///
/// In the words that a test gives, `{}` stands for that directory.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: Log,
    /// For sockets and files of the test, removed with the agent. It is the agent's TMPDIR too.
    pub dir: TempDir,
}

impl Agent {
    /// Starts `program` with `words`, split at spaces.
    pub fn start(program: &str, words: &str) -> Self {
        Self::start_by(Command::new(program), words)
    }

    /// Starts `program` on the Unix socket [`Self::socket`] with `words`, which may have spaces in them.
    pub fn serve(program: &str, words: &[&str]) -> Self {
        Self::serve_by(Command::new(program), words)
    }

    /// As [`Self::serve`], by a command that executes the agent with the words that follow.
    pub fn serve_by(command: Command, words: &[&str]) -> Self {
        Self::start_with(command, "-U {}/socket", words)
    }

    /// As [`Self::start`], by a command that executes the agent with the words that follow.
    pub fn start_by(command: Command, words: &str) -> Self {
        Self::start_by_in(command, |_| (), words)
    }

    /// As [`Self::start_by`], with `more` words that may have spaces in them.
    pub fn start_with(command: Command, words: &str, more: &[&str]) -> Self {
        Self::start_watched(command, |_| (), words, more).0
    }

    /// As [`Self::start_by`], after `prepare` has been given the directory.
    pub fn start_by_in(command: Command, prepare: impl FnOnce(&Path), words: &str) -> Self {
        Self::start_watched(command, prepare, words, &[]).0
    }

    /// The same with everything, and with the service manager's socket, on which READY=1 was received. A manager
    /// that keeps the socket has to receive from it: the agent waits for room there.
    pub fn start_watched(
        mut command: Command,
        prepare: impl FnOnce(&Path),
        words: &str,
        more: &[&str],
    ) -> (Self, UnixDatagram) {
        let dir = TempDir::with_prefix("agent-test-").expect("a temporary directory");
        let notify = dir.path().join("notify");
        let manager = UnixDatagram::bind(&notify).expect("a socket");
        // Like systemd's: the agent may have changed its user.
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o777)).expect("permissions");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        manager.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        prepare(dir.path());
        let place = dir.path().to_str().expect("a directory in UTF-8");
        let mut child = command
            .args(words.split_whitespace().map(|word| word.replace("{}", place)))
            .args(more)
            .env("NOTIFY_SOCKET", &notify)
            .env("TMPDIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let log = Log::follow(child.stderr.take().expect("a pipe"));
        let agent = Self { child, log, dir };
        let mut state = [0; 16];
        match manager.recv(&mut state) {
            Ok(n) => assert_eq!(&state[..n], b"READY=1"),
            Err(error) => panic!("the agent is not ready: {error}"),
        }
        (agent, manager)
    }

    /// A file in the agent's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The socket of [`Self::serve`].
    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output. To be called once.
    pub fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().expect("not taken before"))
    }

    /// A client that has connected to [`Self::socket`].
    pub fn connect(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// A client that has opened the default export at [`Self::socket`].
    pub fn open(&self) -> Client {
        let mut client = self.connect();
        client.negotiate();
        client
    }

    /// The agent still serves a new client.
    pub fn assert_alive(&mut self) {
        assert!(self.child.try_wait().expect("a child").is_none(), "the agent has ended");
        let mut client = self.open();
        assert_eq!(client.read_at(0, 512).len(), 512);
        client.disconnect();
    }

    /// Waits for a log line that contains `part`; all lines from the last call up to it.
    pub fn wait_for_line(&self, part: &str) -> Vec<String> {
        self.log.up_to(part, DEADLINE).unwrap_or_else(|missing| {
            panic!("no line with '{part}' (ended: {}) in {:#?}", missing.ended, missing.lines)
        })
    }

    /// Waits for the first line of the whole log that contains `part`, and returns what follows it in that line.
    pub fn logged_after(&self, part: &str) -> String {
        let rest = self.log.after(part, DEADLINE);
        rest.unwrap_or_else(|| panic!("the log has no {part:?}: {:#?}", self.log.lines()))
    }

    /// A number from `/proc/PID/status`: `VmRSS` in KiB, `Threads`.
    pub fn status(&self, key: &str) -> u64 {
        process::status(self.id(), key)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().expect("a pid")), signal).expect("it runs");
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }

    /// Waits for the end: its status, and the lines of the log from the last call on.
    pub fn wait(&mut self) -> (ExitStatus, Vec<String>) {
        // The log ends with the process: nothing has to be polled.
        let Some(lines) = self.log.rest(DEADLINE) else {
            panic!("the agent did not end; log: {:#?}", self.log.lines());
        };
        (self.child.wait().expect("a child"), lines)
    }

    /// Sends TERM, waits for a successful end, and returns the lines of the log from the last call on.
    pub fn end(&mut self) -> Vec<String> {
        self.signal(Signal::SIGTERM);
        let (status, lines) = self.wait();
        assert!(status.success(), "{status}: {lines:#?}");
        lines
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended before.
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("--- the agent's log\n{}\n---", self.log.lines().join("\n"));
        }
    }
}
