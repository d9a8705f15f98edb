//! A running agent under test: started, waited for by READY=1, its log read line by line.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine: whoever waits so long has hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Debian: apt-get install nbdkit.
pub(crate) const NBDKIT: &str = "nbdkit";
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_agent");

/// An agent that has said READY=1. Killed when dropped, if it is still there.
pub(crate) struct Agent {
    child: Child,
    log: Receiver<String>,
    /// For sockets and files of the test; removed with it.
    pub(crate) dir: TempDir,
}

impl Agent {
    /// With `words` split at spaces, in which `{}` stands for the test's directory.
    pub(crate) fn start(words: &str) -> Self {
        Self::start_by(Command::new(BINARY), words)
    }

    /// By another program that executes the agent with the words it is given.
    pub(crate) fn start_by(command: Command, words: &str) -> Self {
        Self::start_by_in(command, |_| (), words)
    }

    /// The same, with `more` words that may have spaces in them.
    pub(crate) fn start_with(command: Command, words: &str, more: &[&str]) -> Self {
        Self::start_all(command, |_| (), words, more)
    }

    /// The same, in a directory that something is put into first.
    pub(crate) fn start_by_in(command: Command, prepare: impl FnOnce(&Path), words: &str) -> Self {
        Self::start_all(command, prepare, words, &[])
    }

    fn start_all(
        mut command: Command,
        prepare: impl FnOnce(&Path),
        words: &str,
        more: &[&str],
    ) -> Self {
        let dir = TempDir::new().unwrap();
        let notify = dir.path().join("notify");
        let ready = UnixDatagram::bind(&notify).unwrap();
        // As systemd's: whoever the service has become may write.
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        prepare(dir.path());
        let mut child =
            command
                .args(words.split_whitespace().map(|word| {
                    word.replace("{}", dir.path().to_str().expect("a directory in UTF-8"))
                }))
                .args(more)
                .env("NOTIFY_SOCKET", &notify)
                .env("TMPDIR", dir.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (lines, received) = channel();
        thread::spawn(move || {
            for line in log.lines() {
                // The test may have ended and not want it any more.
                lines.send(line.unwrap()).ok();
            }
        });
        let mut agent = Self { child, log: received, dir };
        let mut state = [0; 16];
        match ready.recv(&mut state) {
            Ok(n) => assert_eq!(&state[..n], b"READY=1"),
            Err(error) => {
                agent.child.kill().unwrap();
                panic!("not ready: {error}; log: {:#?}", agent.log.iter().collect::<Vec<_>>());
            }
        }
        agent
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().unwrap())
    }

    /// Waits for a log line with `part` in it, and gives all lines up to it.
    pub(crate) fn wait_for_line(&self, part: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => lines.push(line),
                Err(error) => panic!("no line with '{part}' ({error}) in {lines:#?}"),
            }
            if lines.last().is_some_and(|line| line.contains(part)) {
                return lines;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the end; gives the status and the rest of the log.
    pub(crate) fn wait(&mut self) -> (ExitStatus, Vec<String>) {
        // The log ends with the process: nothing has to be polled.
        let mut lines = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) =
            self.log.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            lines.push(line);
        }
        assert!(Instant::now() < deadline, "the agent did not end; log: {lines:#?}");
        (self.child.wait().unwrap(), lines)
    }

    /// TERM, and an orderly end.
    pub(crate) fn end(&mut self) -> Vec<String> {
        self.signal(Signal::SIGTERM);
        let (status, lines) = self.wait();
        assert!(status.success(), "{status}: {lines:#?}");
        lines
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // No harm if it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs an agent that is not to start; its exit code and its stderr.
pub(crate) fn fails(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(stdout.is_empty(), "nothing is printed on stdout");
    (status.code().expect("an exit code"), String::from_utf8(stderr).unwrap())
}

/// As `fails`, with words split at spaces.
pub(crate) fn fails_with(words: &str) -> (i32, String) {
    fails(Command::new(BINARY).args(words.split_whitespace()))
}

/// Connects to a Unix socket and receives the greeting: 18 bytes of fixed newstyle.
pub(crate) fn greeted(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    receive_greeting(&mut stream);
    stream
}

pub(crate) fn receive_greeting(stream: &mut impl Read) {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
}

/// Negotiates the default export in the shortest way (NBD_OPT_EXPORT_NAME); gives the size.
pub(crate) fn opened(stream: &mut (impl Read + Write)) -> u64 {
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream.write_all(b"IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00").unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    u64::from_be_bytes(reply[..8].try_into().unwrap())
}

/// A request header; NBD_CMD_READ is 0, NBD_CMD_DISC 2.
pub(crate) fn request(command: u16, at: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(command.to_be_bytes());
    bytes.extend(7_u64.to_be_bytes());
    bytes.extend(at.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}
