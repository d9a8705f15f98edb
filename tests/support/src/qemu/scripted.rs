//! A QMP server that plays a script. It is a thread at a Unix socket and serves one client.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg},
};

/// The line that QEMU sends to a new client.
pub const GREETING: &str = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \
                            \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n";

/// One step of a script.
#[derive(Debug)]
pub enum Act {
    /// Sends this text.
    Say(String),
    /// Reads a command. It has to have this name.
    Expect(&'static str),
    /// Reads the command of this name with a descriptor beside it, and sends the descriptor to the test.
    TakeFd(&'static str, mpsc::Sender<File>),
    /// Returns this value to the last command.
    Reply(&'static str),
    /// Sends an event of this name without data.
    Event(&'static str),
    /// Sends this many bytes without a line end.
    Fill(u64),
    /// Sends this many events, or fewer if the client stops reading.
    Flood(u64),
    /// Waits until the test sends to this channel or drops its sender.
    Cue(mpsc::Receiver<()>),
    /// Sends and reads nothing until the client has closed.
    Idle,
    /// Closes the connection.
    Close,
}

/// `script` after the greeting and the capabilities.
pub fn greeted(script: Vec<Act>) -> Vec<Act> {
    let mut acts =
        vec![Act::Say(GREETING.into()), Act::Expect("qmp_capabilities"), Act::Reply("{}")];
    acts.extend(script);
    acts
}

/// A server that plays a script for its first client.
#[derive(Debug)]
pub struct Peer {
    path: PathBuf,
    sent: Arc<AtomicU64>,
    _dir: tempfile::TempDir,
}

impl Peer {
    /// Starts a server for `script`. A client that leaves early ends the script.
    pub fn play(script: Vec<Act>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut stage = Stage {
                reader: BufReader::new(stream.try_clone().expect("a copy")),
                stream,
                id: 0,
                count,
            };
            // Most scripts end because the client has left.
            script.into_iter().try_for_each(|act| stage.act(act)).ok();
        });
        Self { path, sent, _dir: dir }
    }

    /// The server's socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes the server has sent: a client that stops reading stops the server.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

struct Stage {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
    id: u64,
    count: Arc<AtomicU64>,
}

impl Stage {
    fn act(&mut self, act: Act) -> io::Result<()> {
        match act {
            Act::Say(text) => self.say(text.as_bytes()),
            Act::Expect(name) => {
                let mut line = String::new();
                self.reader.read_line(&mut line)?;
                self.understand(&line, name)
            }
            Act::TakeFd(name, to) => {
                let mut bytes = [0; 4096];
                let mut space = nix::cmsg_space!([i32; 1]);
                let mut slices = [IoSliceMut::new(&mut bytes)];
                let fd = self.stream.as_raw_fd();
                let message =
                    recvmsg::<UnixAddr>(fd, &mut slices, Some(&mut space), MsgFlags::empty())?;
                let fds = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                    _ => None,
                });
                let fd = fds.expect("a descriptor beside the command");
                let line = message.iovs().next().expect("the command").to_vec();
                // Owning it takes unsafe code, so the test gets a copy. The original is closed with the process.
                to.send(File::options().write(true).open(format!("/proc/self/fd/{fd}"))?)
                    .expect("a test that waits");
                self.understand(std::str::from_utf8(&line).expect("JSON"), name)
            }
            Act::Reply(value) => {
                let reply = format!("{{\"return\": {value}, \"id\": {}}}\r\n", self.id);
                self.say(reply.as_bytes())
            }
            Act::Event(name) => self.say(event(name).as_bytes()),
            Act::Cue(cue) => {
                cue.recv().ok();
                Ok(())
            }
            Act::Fill(bytes) => {
                let chunk = [b'x'; 16 << 10];
                (0..bytes / chunk.len() as u64).try_for_each(|_| self.say(&chunk))
            }
            Act::Flood(count) => {
                let line = event("RTC_CHANGE");
                (0..count).try_for_each(|_| self.say(line.as_bytes()))
            }
            Act::Idle => {
                // Nothing is read while the client lives: some tests check what it does about that.
                let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
                poll(&mut fds, PollTimeout::NONE)?;
                Ok(())
            }
            Act::Close => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn understand(&mut self, line: &str, name: &str) -> io::Result<()> {
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let command: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(command["execute"], name, "{line}");
        self.id = command["id"].as_u64().expect("an id");
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Take what the client has sent; otherwise closing would reset the connection.
        self.stream.set_nonblocking(true).ok();
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).ok();
    }
}

fn event(name: &str) -> String {
    format!("{{\"timestamp\": {{\"seconds\": 1, \"microseconds\": 2}}, \"event\": \"{name}\"}}\r\n")
}
