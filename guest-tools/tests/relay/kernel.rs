//! The kernel's end of a relay, played: requests over socket pairs as its nbd driver sends them. It has
//! several under way, none of which touch the same bytes, and remembers what every byte has to be.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    process::{Child, ChildStderr, Command, Stdio},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const ZERO: u16 = 6;
/// A flag of WRITE, TRIM and ZERO.
pub(crate) const FUA: u16 = 1;

/// A request, and what it writes or has to read.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) command: u16,
    pub(crate) flags: u16,
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) bytes: Vec<u8>,
}

/// A relay in a process of its own, and this end of its sockets.
pub(crate) struct Kernel {
    relay: Child,
    log: BufReader<ChildStderr>,
    lanes: Vec<UnixStream>,
    cookie: u64,
    /// By cookie.
    pub(crate) under_way: HashMap<u64, Asked>,
}

impl Kernel {
    /// Attaches `uri` with so many sockets.
    pub(crate) fn attach(uri: &str, lanes: usize, words: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guest-tools"));
        command.args(["attach", uri]).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..lanes {
            let (our, their) = UnixStream::pair().expect("a pair of sockets");
            fcntl(&their, FcntlArg::F_SETFD(FdFlag::empty())).expect("it can be inherited");
            command.arg(format!("--kernel-fd={}", their.as_raw_fd()));
            ours.push(our);
            theirs.push(their);
        }
        let mut relay = command.spawn().expect("guest-tools starts");
        let log = BufReader::new(relay.stderr.take().expect("stderr"));
        Self { relay, log, lanes: ours, cookie: 0, under_way: HashMap::new() }
    }

    /// Whether it takes requests; else it has ended.
    pub(crate) fn is_ready(&mut self) -> bool {
        let said = self.relay.stdout.as_mut().map(|stdout| stdout.read(&mut [0; 64]));
        said.expect("stdout").expect("a pipe") > 0
    }

    /// Kills the relay.
    pub(crate) fn kill(&mut self) {
        self.relay.kill().expect("it lives");
        self.relay.wait().expect("its end");
        self.lanes.clear();
    }

    /// What the ublk driver does when another relay comes: the requests without an answer are asked again.
    pub(crate) fn ask_again(&mut self, before: &Self) {
        let mut left: Vec<_> = before.under_way.iter().collect();
        left.sort_unstable_by_key(|(cookie, _)| **cookie);
        for (_, asked) in left {
            self.ask(asked.clone());
        }
    }

    /// The end of a relay that cannot begin, and what it says.
    pub(crate) fn fails(mut self) -> String {
        let mut said = String::new();
        self.log.read_to_string(&mut said).expect("UTF-8");
        assert_eq!(self.relay.wait().expect("its end").code(), Some(1), "{said:?}");
        said
    }

    /// The next line of its log that has this part.
    pub(crate) fn says(&mut self, part: &str) -> String {
        let mut seen = Vec::new();
        loop {
            if !self.log.buffer().contains(&b'\n') {
                let mut fds = [PollFd::new(self.log.get_ref().as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut fds, PollTimeout::from(20_000_u16)).expect("poll");
                assert!(ready > 0, "the relay does not say {part:?}: {seen:#?}");
            }
            let mut line = String::new();
            let n = self.log.read_line(&mut line).expect("UTF-8");
            assert!(n > 0, "the relay did not say {part:?}: {seen:#?}");
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
    }

    /// Sends a request down one of the sockets.
    pub(crate) fn ask(&mut self, asked: Asked) {
        self.cookie += 1;
        let lane = usize::try_from(self.cookie).expect("64 bits") % self.lanes.len();
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend(asked.flags.to_be_bytes());
        bytes.extend(asked.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend((asked.at as u64).to_be_bytes());
        bytes.extend(u32::try_from(asked.len).expect("32 bits").to_be_bytes());
        if asked.command == WRITE {
            bytes.extend(&asked.bytes);
        }
        self.lanes[lane].write_all(&bytes).expect("the relay takes requests");
        self.under_way.insert(self.cookie, asked);
    }

    /// The next request that is answered, with the error; what was read must be right.
    pub(crate) fn answer(&mut self) -> (Asked, u32) {
        let mut fds: Vec<_> =
            self.lanes.iter().map(|lane| PollFd::new(lane.as_fd(), PollFlags::POLLIN)).collect();
        let ready = poll(&mut fds, PollTimeout::from(60_000_u16)).expect("poll");
        let open = || self.under_way.values().map(|asked| (asked.command, asked.at, asked.len));
        assert!(ready > 0, "no answer in a minute to {:?}", open().collect::<Vec<_>>());
        let lane = fds.iter().position(|fd| fd.any() == Some(true)).expect("one of them");
        drop(fds);
        let lane = &mut self.lanes[lane];
        let mut head = [0; 16];
        lane.read_exact(&mut head).expect("an answer");
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes(), "its magic");
        let error = u32::from_be_bytes(head[4..8].try_into().expect("4 bytes"));
        let cookie = u64::from_be_bytes(head[8..].try_into().expect("8 bytes"));
        let asked = self.under_way.remove(&cookie).expect("an answer to what was asked");
        if asked.command == READ && error == 0 {
            let mut bytes = vec![0; asked.len];
            lane.read_exact(&mut bytes).expect("its data");
            let wrong = bytes.iter().zip(&asked.bytes).position(|(is, due)| is != due);
            assert_eq!(wrong.map(|n| asked.at + n), None, "the first wrong byte");
        }
        (asked, error)
    }

    /// Disconnects, and waits for the relay's end.
    pub(crate) fn disconnect(mut self) {
        for mut lane in self.lanes.drain(..) {
            let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
            bytes.extend([0, 0, 0, 2]);
            bytes.extend([0; 20]);
            lane.write_all(&bytes).expect("the relay takes a goodbye");
        }
        assert!(self.relay.wait().expect("its end").success());
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.relay.kill().ok();
        self.relay.wait().ok();
    }
}
