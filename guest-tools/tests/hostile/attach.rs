//! `attach` against the servers of all tables, with the kernel's nbd driver played here: it gets right bytes
//! or an error and never a wrong byte, and the log says why.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    SPACE, TIME, TOOL, is_text,
    server::{
        Act, Asked, FLAGS, FLUSH, Framing, GO, HONEST, INFO, Manner, READ, STARTTLS, Script,
        Server, WRITE, pattern, told,
    },
};

const EIO: u32 = 5;
const OFFSET: u64 = 512;
const LEN: u32 = 512;

/// The relay, and the kernel's end of its socket.
struct Attached {
    relay: Child,
    kernel: UnixStream,
    log: std::path::PathBuf,
}

impl Attached {
    fn start(server: &Server, words: &[&str]) -> io::Result<Self> {
        let (kernel, theirs) = UnixStream::pair()?;
        kernel.set_read_timeout(Some(Duration::from_secs(u64::from(TIME))))?;
        let log = server.dir.path().join("log");
        let script =
            format!("ulimit -c 0; ulimit -v {SPACE}; exec timeout -s KILL {TIME} \"$0\" \"$@\"");
        let relay = Command::new("sh")
            .args(["-c", &script, TOOL, "attach", &server.uri, "--kernel-fd=0"])
            .args(words)
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        Ok(Self { relay, kernel, log })
    }

    /// Asks, and says the error; what is read must be right. `None`: the relay has ended.
    fn ask(&mut self, command: u16) -> Result<Option<u32>, String> {
        self.ask_for(command, LEN)
    }

    fn ask_for(&mut self, command: u16, len: u32) -> Result<Option<u32>, String> {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend(0_u16.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(u64::from(command).to_be_bytes());
        let (at, len) = if command == FLUSH { (0, 0) } else { (OFFSET, len) };
        bytes.extend(at.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        if command == WRITE {
            bytes.extend(pattern(at, u64::from(len)));
        }
        let mut head = [0; 16];
        let answered =
            self.kernel.write_all(&bytes).and_then(|()| self.kernel.read_exact(&mut head));
        match answered {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(format!("no answer to command {command}: {}", self.said()));
            }
            Err(_) => return Ok(None),
            Ok(()) => {}
        }
        let error = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if head[..4] != 0x6744_6698_u32.to_be_bytes()
            || head[8..] != u64::from(command).to_be_bytes()
        {
            return Err(format!("{head:?} answers command {command}"));
        }
        if command == READ && error == 0 {
            let mut read = vec![0; len as usize];
            self.kernel.read_exact(&mut read).map_err(|error| format!("no bytes: {error}"))?;
            if read != pattern(OFFSET, u64::from(len)) {
                return Err("the kernel has got wrong bytes".to_owned());
            }
        }
        Ok(Some(error))
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string())
    }

    /// The kernel leaves; what was said until the end.
    fn end(mut self) -> Result<String, String> {
        drop(self.kernel);
        let status = self.relay.wait().map_err(|error| error.to_string())?;
        let said = std::fs::read_to_string(&self.log).map_err(|error| error.to_string())?;
        is_text(said.as_bytes())?;
        match status.code() {
            Some(0 | 1) => Ok(said),
            _ => Err(format!("{status}: {said:.2000}")),
        }
    }
}

/// Requests of the kernel to a server that does something wrong. What it says that this end cannot go on
/// with is told; an error that it says is the kernel's; and what concerns no request does no harm.
pub(crate) fn against(server: &Server, says: &str) -> Result<(), String> {
    let words = ["--dead-timeout=100ms", "--timeout=200ms"];
    let mut attached = Attached::start(server, &words).map_err(|error| error.to_string())?;
    let mut all = true;
    for command in [READ, WRITE, FLUSH] {
        all &= attached.ask(command)?.is_some();
    }
    let said = attached.end()?;
    let goes_on = all && !said.contains("reconnecting");
    if goes_on || said.contains(says) {
        Ok(())
    } else {
        Err(format!("{says:?} is not in {said:.2000}"))
    }
}

/// After each byte of the first connection the server dies, and comes back: the kernel sees nothing of it.
fn death_is_no_error(framing: Framing) {
    let next = AtomicUsize::new(0);
    let survives = |nth: usize| {
        // What comes late is mostly the bytes of reads, where one is as another.
        let lives = if nth < 500 { nth } else { 500 + (nth - 500) * 7 };
        let manner = Manner { lives, recovers: true, ..Manner::new(framing, HONEST) };
        let server = Server::start(manner);
        let mut attached = Attached::start(&server, &["--wait=20s"]).expect("it starts");
        for command in [WRITE, READ, FLUSH] {
            let answer = attached.ask(command);
            assert_eq!(answer, Ok(Some(0)), "{framing:?}, {lives}: {}", attached.said());
        }
        let said = attached.end().expect("a good end");
        // The whole session was honest.
        lives > 800 && !said.contains("reconnecting")
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| while !survives(next.fetch_add(1, Ordering::Relaxed)) {});
        }
    });
    assert!(next.into_inner() > 500);
}

#[test]
fn a_death_at_every_byte_of_simple_replies_is_no_error() {
    death_is_no_error(Framing::Simple);
}

#[test]
fn a_death_at_every_byte_of_structured_replies_is_no_error() {
    death_is_no_error(Framing::Structured);
}

#[test]
fn a_death_at_every_byte_of_extended_replies_is_no_error() {
    death_is_no_error(Framing::Extended);
}

/// Requests to what a client is not to use; its servers are threads, whose panics nobody sees.
static USED: AtomicUsize = AtomicUsize::new(0);

/// The first connection ends at its second request, and the others are to something else.
#[test]
fn a_changed_export_is_refused_and_not_used() {
    const ENDS: fn(&Asked) -> bool = |asked| matches!(asked, Asked::Request(request) if request.nth == 0 && request.command == READ);
    let size: Script = |asked, honest| match asked {
        asked if ENDS(asked) => Act::Close(Vec::new()),
        Asked::Option { code: code @ (INFO | GO), nth: 1.. } => {
            Act::Say(told(*code, 128 << 10, FLAGS))
        }
        Asked::Request(request) if request.nth > 0 => {
            USED.fetch_add(1, Ordering::Relaxed);
            Act::Say(honest)
        }
        _ => Act::Say(honest),
    };
    let flags: Script = |asked, honest| match asked {
        asked if ENDS(asked) => Act::Close(Vec::new()),
        // Without SEND_TRIM.
        Asked::Option { code: code @ (INFO | GO), nth: 1.. } => {
            Act::Say(told(*code, 64 << 10, FLAGS & !(1 << 5)))
        }
        Asked::Request(request) if request.nth > 0 => {
            USED.fetch_add(1, Ordering::Relaxed);
            Act::Say(honest)
        }
        _ => Act::Say(honest),
    };
    let read_only: Script = |asked, honest| match asked {
        asked if ENDS(asked) => Act::Close(Vec::new()),
        Asked::Option { code: code @ (INFO | GO), nth: 1.. } => {
            Act::Say(told(*code, 64 << 10, FLAGS | 1 << 1))
        }
        Asked::Request(request) if request.nth > 0 => {
            USED.fetch_add(1, Ordering::Relaxed);
            Act::Say(honest)
        }
        _ => Act::Say(honest),
    };
    for (script, says) in [
        (size, "its size was 65536 bytes and is 131072"),
        (flags, "it does not offer SEND_TRIM any more"),
        (read_only, "its flags were SEND_FLUSH and are READ_ONLY and SEND_FLUSH"),
    ] {
        let server = Server::start(Manner::new(Framing::Structured, script));
        let mut attached = Attached::start(&server, &["--dead-timeout=300ms"]).expect("it starts");
        assert_eq!(attached.ask(WRITE), Ok(Some(0)), "{says}");
        assert_eq!(attached.ask(READ), Ok(Some(EIO)), "{says}");
        assert_eq!(attached.ask(WRITE), Ok(Some(EIO)), "{says}");
        let said = attached.end().expect("a good end");
        assert!(said.contains(says), "{says:?} is not in {said}");
    }
    assert_eq!(USED.load(Ordering::Relaxed), 0, "the changed export was used");
}

/// It can be connected to and never answers right: no less dead than one that is away. The time is longer
/// than the longest pause between two tries.
#[test]
fn a_server_that_only_lies_is_left_at_the_dead_timeout() {
    let script: Script = |asked, mut honest| {
        if let Asked::Request(_) = asked {
            honest[8] ^= 1;
        }
        Act::Say(honest)
    };
    let server = Server::start(Manner::new(Framing::Structured, script));
    let mut attached = Attached::start(&server, &["--dead-timeout=2500ms"]).expect("it starts");
    assert_eq!(attached.ask(READ), Ok(Some(EIO)));
    let said = attached.end().expect("a good end");
    assert!(said.contains("no such request is outstanding"), "{said}");
}

/// The second connection answers as slowly as can be, the third is good again: the relay leaves the one for
/// the other at its timeout.
#[test]
fn a_server_that_comes_back_slowly_is_tried_again() {
    let script: Script = |asked, honest| match asked {
        Asked::Request(request) if request.nth == 0 && request.command == READ => {
            Act::Close(Vec::new())
        }
        // One message takes 10 s and more.
        Asked::Option { code, nth: 1 } if *code != STARTTLS => {
            Act::Drip(honest, Duration::from_millis(250))
        }
        _ => Act::Say(honest),
    };
    let plain = Manner::new(Framing::Structured, script);
    for manner in [plain, plain.inside_tls()] {
        let server = Server::start(manner);
        let mut attached = Attached::start(&server, &["--timeout=300ms"]).expect("it starts");
        let begun = Instant::now();
        for command in [WRITE, READ, FLUSH] {
            assert_eq!(attached.ask(command), Ok(Some(0)), "{}", attached.said());
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        let said = attached.end().expect("a good end");
        assert!(said.contains("no answer in 300ms (--timeout)"), "{said}");
    }
}

/// Its answer takes four seconds, and comes all the time: it is asked once.
#[test]
fn a_long_answer_that_comes_slowly_is_life() {
    let script: Script = |asked, honest| match asked {
        Asked::Request(request) if request.command == READ => {
            Act::Flow(honest, (164, Duration::from_millis(20)))
        }
        _ => Act::Say(honest),
    };
    let plain = Manner::new(Framing::Structured, script);
    thread::scope(|scope| {
        for manner in [plain, plain.inside_tls()] {
            scope.spawn(move || {
                let server = Server::start(manner);
                let words = ["--dead-timeout=1400ms"];
                let mut attached = Attached::start(&server, &words).expect("it starts");
                assert_eq!(attached.ask_for(READ, 32 << 10), Ok(Some(0)), "{}", attached.said());
                let said = attached.end().expect("a good end");
                assert!(!said.contains("reconnecting"), "{said}");
            });
        }
    });
}
