//! The real binary under a test, and a client that says exactly what it is told to.

#![allow(dead_code, reason = "each test binary uses some of it")]
#![allow(unreachable_pub, reason = "shared by test binaries")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// Beyond any wait that a slow machine needs.
pub const LONG: Duration = Duration::from_mins(1);

/// A running agent on a Unix socket of its own; ended when dropped.
pub struct Agent {
    pub child: Child,
    pub socket: PathBuf,
    pub dir: TempDir,
    /// What it has written so far.
    said: Arc<Said>,
    log: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Said {
    text: Mutex<String>,
    changed: Condvar,
}

impl Agent {
    /// `words`: what comes behind `-U SOCKET`.
    pub fn start(words: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_agent")), words)
    }

    /// The same by way of a command that runs the agent with the words appended to it.
    pub fn spawn(mut command: Command, words: &[&str]) -> Self {
        let dir = TempDir::with_prefix("agent-test-").expect("a temporary directory");
        let socket = dir.path().join("sock");
        let mut child = command
            .arg("-U")
            .arg(&socket)
            .args(words)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let said = Arc::default();
        let log = read_all(child.stderr.take().expect("piped"), Arc::clone(&said));
        let mut agent = Self { child, socket, dir, said, log: Some(log) };
        let start = Instant::now();
        while UnixStream::connect(&agent.socket).is_err() {
            let gone = agent.child.try_wait().expect("a child").is_some();
            assert!(!gone && start.elapsed() < LONG, "the agent is not there: {}", agent.end().1);
            thread::yield_now();
        }
        agent
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// A client in transmission.
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

    /// TERM, and the exit status and the log.
    pub fn terminate(self) -> (ExitStatus, String) {
        kill(self.pid(), Signal::SIGTERM).expect("a running agent");
        self.terminated()
    }

    /// The end of an agent that has been told to end: the exit status and the log.
    pub fn terminated(mut self) -> (ExitStatus, String) {
        self.ended()
    }

    fn end(&mut self) -> (ExitStatus, String) {
        self.child.kill().ok();
        self.ended()
    }

    fn ended(&mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("a child");
        self.log.take().expect("read once").join().expect("the log");
        (status, std::mem::take(&mut *self.said.text.lock().expect("the log")))
    }

    /// What stands behind `words` in the first line of the log that has them, once there is one.
    pub fn wait_for(&self, words: &str) -> String {
        let behind = |text: &str| {
            let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            lines.find_map(|line| line.split_once(words)).map(|(_, rest)| rest.to_owned())
        };
        let text = self.said.text.lock().expect("the log");
        let waited =
            self.said.changed.wait_timeout_while(text, LONG, |text| behind(text).is_none());
        let (text, _) = waited.expect("the log");
        behind(&text).unwrap_or_else(|| panic!("the log has no {words:?}: {text}"))
    }

    /// A number of kilobytes from /proc/PID/status, such as VmRSS.
    pub fn memory_kib(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the agent's status");
        let line = status.lines().find(|line| line.starts_with(key)).expect("the key");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.log.is_some() {
            let (_, log) = self.end();
            eprintln!("--- the agent's log\n{log}---");
        }
    }
}

fn read_all(stderr: ChildStderr, said: Arc<Said>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut text = said.text.lock().expect("the log");
            text.push_str(&line);
            text.push('\n');
            said.changed.notify_all();
        }
    })
}

/// Option codes, command codes.
pub const OPT_LIST: u32 = 3;
pub const OPT_STARTTLS: u32 = 5;
pub const OPT_INFO: u32 = 6;
pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED: u32 = 8;
pub const OPT_SET_CONTEXT: u32 = 10;
pub const OPT_EXTENDED: u32 = 11;
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const ZERO: u16 = 6;
pub const STATUS: u16 = 7;
/// Command flags.
pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 1 << 1;
pub const PAYLOAD: u16 = 1 << 5;

/// A client with no manners of its own.
pub struct Client<S = UnixStream> {
    pub stream: S,
}

impl Client {
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the agent listens");
        stream.set_read_timeout(Some(LONG)).expect("a timeout");
        stream.set_write_timeout(Some(LONG)).expect("a timeout");
        Self { stream }
    }
}

impl<S: Read + Write> Client<S> {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the agent takes bytes");
    }

    pub fn recv<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("the agent answers");
        bytes
    }

    pub fn recv_len(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("the agent answers");
        bytes
    }

    /// The agent closes; what it still sends is returned. A reset is a close.
    pub fn recv_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                panic!("the agent does not close: {error}")
            }
            _ => bytes,
        }
    }

    /// The greeting, and fixed newstyle without zeroes.
    pub fn greet(&mut self) {
        assert_eq!(&self.recv::<18>(), b"NBDMAGICIHAVEOPT\0\x03");
        self.send(&3u32.to_be_bytes());
    }

    pub fn option(&mut self, code: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).expect("short");
        self.send(&[b"IHAVEOPT", &code.to_be_bytes()[..], &len.to_be_bytes(), data].concat());
    }

    /// The type and the data of one option reply.
    pub fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let header = self.recv::<20>();
        assert_eq!(&header[..8], &0x0003_e889_0455_65a9_u64.to_be_bytes());
        let number = |i: usize| u32::from_be_bytes(header[i..i + 4].try_into().expect("4"));
        let len = number(16) as usize;
        (number(12), self.recv_len(len))
    }

    /// To the transmission, with simple replies and the default export. The disk's size.
    pub fn negotiate(&mut self) -> u64 {
        self.negotiate_export("")
    }

    pub fn negotiate_export(&mut self, name: &str) -> u64 {
        self.greet();
        self.go(name)
    }

    pub fn go(&mut self, name: &str) -> u64 {
        let len = u32::try_from(name.len()).expect("short");
        self.option(OPT_GO, &[&len.to_be_bytes(), name.as_bytes(), &[0; 2]].concat());
        let mut size = 0;
        loop {
            match self.option_reply() {
                (3, info) if info[..2] == [0, 0] => {
                    size = u64::from_be_bytes(info[2..10].try_into().expect("8"));
                }
                (3, _) => {}
                (1, _) => return size,
                (code, text) => panic!("GO failed: {code:#x} {}", String::from_utf8_lossy(&text)),
            }
        }
    }

    pub fn request(&mut self, command: u16, cookie: u64, offset: u64, len: u32) {
        self.send(&request(command, cookie, offset, len));
    }

    /// The error and the cookie of a simple reply.
    pub fn reply(&mut self) -> (u32, u64) {
        let header = self.recv::<16>();
        assert_eq!(&header[..4], &0x6744_6698_u32.to_be_bytes(), "a simple reply");
        let error = u32::from_be_bytes(header[4..8].try_into().expect("4"));
        (error, u64::from_be_bytes(header[8..].try_into().expect("8")))
    }

    pub fn read_at(&mut self, offset: u64, len: u32) -> Vec<u8> {
        self.request(READ, 77, offset, len);
        assert_eq!(self.reply(), (0, 77));
        self.recv_len(len as usize)
    }

    pub fn write_at(&mut self, offset: u64, data: &[u8]) {
        let len = u32::try_from(data.len()).expect("short");
        self.request(WRITE, 78, offset, len);
        self.send(data);
        assert_eq!(self.reply(), (0, 78));
    }

    pub fn disconnect(mut self) {
        self.request(DISC, 0, 0, 0);
        assert!(self.recv_to_end().is_empty());
    }
}

pub fn request(command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    request_with(0, command, cookie, offset, len)
}

pub fn request_with(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    [
        &0x2560_9513_u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &len.to_be_bytes(),
    ]
    .concat()
}

/// An extended request.
pub fn extended(flags: u16, command: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
    [
        &0x21e4_1c71_u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &len.to_be_bytes(),
    ]
    .concat()
}
