//! Servers that are silent or slow: `--timeout` says for how long.

use std::{
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};

use crate::{
    Case, Words, judge, no_complaints, run,
    server::{
        Act, Asked, FLUSH, Framing, GO, HONEST, Manner, READ as READS, STARTTLS, Script, Server,
        WRITE, pattern, simple,
    },
};

const SAYS: &str = "no answer in 200ms (--timeout)";
const COMMANDS: &[Words] = &[
    &["info", "URI", "--timeout", "200ms"],
    &["list", "URI", "--timeout", "200ms"],
    &["probe", "URI", "--timeout", "200ms"],
    &["--timeout", "200ms", "map", "URI"],
    READ,
    COPY_FROM,
    COPY_TO,
    &["write", "URI", "--pattern", "--length", "48k", "--timeout", "200ms"],
    &["zero", "URI", "--all", "--timeout", "200ms"],
    &["trim", "URI", "--all", "--timeout", "200ms"],
    &["test", "URI", "--destroy", "--timeout", "200ms"],
    BENCH,
];
const READ: Words = &["read", "URI", "--timeout", "200ms"];
const COPY_FROM: Words = &["copy", "--quiet", "URI", "DIR/copied", "--timeout", "200ms"];
const COPY_TO: Words = &["copy", "--quiet", "DIR/given", "URI", "--timeout", "200ms"];
const BENCH: Words = &["bench", "URI", "--size", "4k", "--time", "50ms", "--timeout", "200ms"];

const PAUSE: Duration = Duration::from_millis(40);

/// What a server does, how, and the commands that meet it.
type Row = (&'static str, Script, &'static [Words]);

/// Every command ends in time, in plain text and inside TLS, and says that the server is silent.
fn all_give_up(rows: &[Row]) {
    let mut wrong = Vec::new();
    for &(name, script, commands) in rows {
        let plain = Manner::new(Framing::Structured, script);
        for manner in [plain, plain.inside_tls()] {
            let begun = Instant::now();
            wrong.extend(Case { name, manner, commands, says: SAYS }.complaints());
            assert!(begun.elapsed() < Duration::from_secs(15), "{name}");
        }
    }
    no_complaints(&wrong);
}

#[test]
fn commands_give_up_on_a_silent_server() {
    all_give_up(&[
        ("no greeting", (|_, _| Act::Mute) as Script, COMMANDS),
        (
            "no answer to options",
            |asked, honest| match asked {
                Asked::Greeting => Act::Say(honest),
                _ => Act::Mute,
            },
            COMMANDS,
        ),
        (
            "no answer to requests",
            |asked, honest| match asked {
                Asked::Request(_) => Act::Mute,
                _ => Act::Say(honest),
            },
            COMMANDS.get(3..).expect("those that make some"),
        ),
        (
            "half of each answer to a request",
            |asked, honest| match asked {
                Asked::Request(_) => Act::Deaf(honest[..honest.len() / 2].to_vec()),
                _ => Act::Say(honest),
            },
            COMMANDS.get(3..).expect("those that make some"),
        ),
    ]);
}

#[test]
fn a_byte_now_and_then_is_silence() {
    all_give_up(&[
        ("a slow greeting", (|_, honest| Act::Drip(honest, PAUSE)) as Script, COMMANDS),
        (
            "slow answers to options",
            |asked, honest| match asked {
                Asked::Greeting => Act::Say(honest),
                _ => Act::Drip(honest, PAUSE),
            },
            COMMANDS,
        ),
        (
            "slow answers inside TLS",
            |asked, honest| match asked {
                Asked::Greeting | Asked::Option { code: STARTTLS, .. } => Act::Say(honest),
                _ => Act::Drip(honest, PAUSE),
            },
            COMMANDS,
        ),
        (
            "slow answers to requests",
            |asked, honest| match asked {
                Asked::Request(_) => Act::Drip(honest, PAUSE),
                _ => Act::Say(honest),
            },
            COMMANDS.get(3..).expect("those that make some"),
        ),
    ]);
}

#[test]
fn a_server_that_does_not_accept_is_silent() {
    let server = Server::start(Manner::new(Framing::Simple, HONEST));
    let path = server.dir.path().join("hung");
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None);
    let fd = fd.expect("a socket");
    bind(fd.as_raw_fd(), &UnixAddr::new(&path).expect("a path")).expect("it is free");
    listen(&fd, Backlog::new(0).expect("a number")).expect("it listens");
    // There is room for one.
    let _first = UnixStream::connect(&path).expect("a place in the queue");
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let output = run(&server, &["read", &uri, "--timeout", "200ms"]);
    let line = judge(&["read"], &output).expect("an error");
    assert!(line.contains(SAYS) && line.contains("does not accept"), "{line}");
}

#[test]
fn a_server_that_takes_nothing_in_is_silent() {
    let script: Script = |asked, honest| match asked {
        Asked::Option { code: GO, .. } => Act::Deaf(honest),
        _ => Act::Say(honest),
    };
    let manner = Manner { size: 8 << 20, ..Manner::new(Framing::Simple, script) };
    let commands: &[Words] =
        &[&["write", "URI", "--pattern", "--length", "8M", "--timeout", "200ms"], READ];
    Case { name: "no ear", manner, commands, says: SAYS }.fails();
}

#[test]
fn a_slow_server_is_not_a_dead_one() {
    // Each answer takes most of the time, and all of them much more.
    let script: Script = |asked, honest| match asked {
        Asked::Request(request) if request.command == WRITE || request.command == FLUSH => {
            Act::Drip(honest, Duration::from_millis(3))
        }
        _ => Act::Say(honest),
    };
    let manner = Manner { size: 32 << 20, ..Manner::new(Framing::Simple, script) };
    let server = Server::start(manner);
    let words = ["write", "URI", "--pattern", "--length", "32M", "--timeout", "1s"];
    let output = run(&server, &words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The bytes that are a sign of life come in half a second, and a record of TLS in two.
#[test]
fn as_many_bytes_are_the_same_life_inside_tls() {
    let script: Script = |asked, honest| match asked {
        Asked::Request(request) if request.command == READS => {
            Act::Flow(honest, (164, Duration::from_millis(20)))
        }
        _ => Act::Say(honest),
    };
    let plain = Manner::new(Framing::Simple, script);
    thread::scope(|scope| {
        for manner in [plain, plain.inside_tls()] {
            scope.spawn(move || {
                let server = Server::start(manner);
                let words = ["read", "URI", "--length", "32k", "--timeout", "1400ms"];
                let output = run(&server, &words);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                assert_eq!(output.stdout, pattern(0, 32 << 10));
            });
        }
    });
}

#[test]
fn a_flush_that_is_never_answered_ends() {
    let script: Script = |asked, honest| match asked {
        Asked::Request(request) if request.command == FLUSH => Act::Mute,
        _ => Act::Say(honest),
    };
    let manner = Manner::new(Framing::Structured, script);
    let commands: &[Words] = &[
        COPY_TO,
        &["write", "URI", "--pattern", "--length", "48k", "--timeout", "200ms"],
        &["zero", "URI", "--all", "--timeout", "200ms"],
    ];
    Case { name: "no end of a flush", manner, commands, says: SAYS }.fails();
}

/// The cookie of the flush that waits, and the answers to other requests meanwhile.
static FLUSHING: AtomicU64 = AtomicU64::new(0);
static ALIVE: AtomicU64 = AtomicU64::new(0);

/// A large copy's flush may well take longer than a server may keep silent.
#[test]
fn a_flush_takes_its_time_while_the_server_answers_other_requests() {
    let script: Script = |asked, honest| match asked {
        Asked::Request(request) if request.command == FLUSH => {
            FLUSHING.store(request.cookie, Ordering::Relaxed);
            ALIVE.store(0, Ordering::Relaxed);
            Act::Say(Vec::new())
        }
        Asked::Request(request) if request.command == READS => {
            let late = match ALIVE.fetch_add(1, Ordering::Relaxed) {
                4 => simple(FLUSHING.load(Ordering::Relaxed), 0),
                _ => Vec::new(),
            };
            Act::Say([honest, late].concat())
        }
        _ => Act::Say(honest),
    };
    let server = Server::start(Manner::new(Framing::Simple, script));
    for words in [COPY_TO, &["zero", "URI", "--all", "--timeout", "200ms"]] {
        let begun = Instant::now();
        let output = run(&server, words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(begun.elapsed() > Duration::from_millis(400), "{words:?}");
        assert_eq!(ALIVE.load(Ordering::Relaxed), 5, "{words:?}");
    }
}

#[test]
fn zero_is_for_ever_and_a_timeout_is_a_time() {
    let server = Server::start(Manner::new(Framing::Simple, HONEST));
    let output = run(&server, &["read", "URI", "--timeout", "0s"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, pattern(0, 64 << 10));
    let output = run(&server, &["info", "URI", "--timeout", "soon"]);
    let line = judge(&["info"], &output).expect("an error");
    assert!(line.contains("--timeout"), "{line}");
}
