//! A peer that follows a script in place of QEMU: a thread at a Unix socket, for one client.

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
use tokio::sync::oneshot;

pub(crate) const GREETING: &str = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \
                            \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n";

/// A step of the script.
pub(crate) enum Act {
    /// Sends these bytes.
    Say(String),
    /// Reads a command, which must be this one.
    Expect(&'static str),
    /// Reads this command with a descriptor, and passes the descriptor to the test.
    TakeFd(&'static str, oneshot::Sender<File>),
    /// Replies to the command read last, with this value.
    Reply(&'static str),
    /// Sends an event without data.
    Event(&'static str),
    /// Sends this many bytes without an end of a line.
    Fill(u64),
    /// Sends this many events, fewer if the client closes the connection.
    Flood(u64),
    /// Waits until the test sends a value or drops its end.
    Cue(mpsc::Receiver<()>),
    /// Sends and reads nothing until the client closes the connection.
    Idle,
    /// Ends the connection.
    Close,
}

/// A script that begins with QEMU's greeting and negotiation.
pub(crate) fn greeted(script: Vec<Act>) -> Vec<Act> {
    let mut acts =
        vec![Act::Say(GREETING.into()), Act::Expect("qmp_capabilities"), Act::Reply("{}")];
    acts.extend(script);
    acts
}

pub(crate) struct Peer {
    path: PathBuf,
    sent: Arc<AtomicU64>,
    _dir: tempfile::TempDir,
}

impl Peer {
    pub(crate) fn play(script: Vec<Act>) -> Self {
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
            // Most scripts end when the client closes the connection.
            script.into_iter().try_for_each(|act| stage.act(act)).ok();
        });
        Self { path, sent, _dir: dir }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of bytes sent.
    pub(crate) fn sent(&self) -> u64 {
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
                // To take ownership needs unsafe code. The descriptor stays open until the process ends.
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
                // Nothing is read while the client is connected: the client may test that.
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
        // Read what the client has sent; otherwise the close would be a reset.
        self.stream.set_nonblocking(true).ok();
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).ok();
    }
}

fn event(name: &str) -> String {
    format!("{{\"timestamp\": {{\"seconds\": 1, \"microseconds\": 2}}, \"event\": \"{name}\"}}\r\n")
}
