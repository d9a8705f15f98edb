//! Layers that depend on something outside (exitwhen, rate-file, logscript): tested while a client
//! stays connected, and compared with nbdkit where that can be waited for.

use std::{
    fs,
    io::Read,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::Signal,
};
use support::{
    DEADLINE,
    agent::{Agent, NBDKIT},
    client::{greeted, opened},
};

use crate::BINARY;

/// Waits until the agent has ended by itself, for the reason that its log names.
fn ended_because(mut agent: Agent, why: &str) {
    let (status, lines) = agent.wait();
    assert!(status.success(), "{status}: {lines:#?}");
    assert!(lines.join("\n").contains(why), "{why}: {lines:#?}");
    assert!(!agent.path("s").exists(), "nothing is left behind");
}

#[test]
fn a_pipe_that_closes_ends_it_when_the_last_client_leaves() {
    let (theirs, ours) = std::io::pipe().unwrap();
    let theirs = OwnedFd::from(theirs);
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let words = format!(
        "-U {{}}/s --filter=exitwhen memory 1M exit-when-pipe-closed={}",
        theirs.as_raw_fd()
    );
    let agent = Agent::start(BINARY, &words);
    drop(theirs);
    let mut client = greeted(&agent.path("s"));
    drop(ours);
    assert_eq!(opened(&mut client), 1 << 20, "who is in goes on");
    drop(client);
    ended_because(agent, "exit-when-pipe-closed=");
}

#[test]
fn a_process_that_exits_ends_it() {
    // Ends when its stdin does.
    let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let agent = Agent::start(
        BINARY,
        &format!("-U {{}}/s --filter=exitwhen memory 1M exit-when-process-exits={}", other.id()),
    );
    drop(greeted(&agent.path("s")));
    drop(other.stdin.take());
    other.wait().unwrap();
    ended_because(agent, "exit-when-process-exits=");
}

#[test]
fn a_script_that_exits_with_88_ends_it() {
    let agent = Agent::start_with(
        Command::new(BINARY),
        "-U {}/s --filter=exitwhen memory 1M exit-when-poll=50ms",
        // TMPDIR is the test's directory.
        &["exit-when-script=test -e $TMPDIR/now && exit 88; exit 0"],
    );
    drop(greeted(&agent.path("s")));
    fs::write(agent.path("now"), "").unwrap();
    ended_because(agent, "exit-when-script=");
}

/// How long a read of `len` bytes takes.
fn reading(socket: &Path, len: u32) -> Duration {
    let start = Instant::now();
    let output = Command::new("/usr/bin/python3")
        .args([
            "-c",
            "import nbd, sys\nh = nbd.NBD()\nh.connect_unix(sys.argv[1])\n\
                      h.pread(int(sys.argv[2]), 0)\nh.shutdown()",
        ])
        .arg(socket)
        .arg(len.to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    start.elapsed()
}

#[test]
fn a_file_of_rates_slows_and_frees_connections() {
    for key in ["rate", "connection-rate"] {
        let mut agent = Agent::start(
            BINARY,
            &format!(
                "-U {{}}/s --filter=rate memory 1M {key}=100G {key}-file={{}}/rate burstiness=0"
            ),
        );
        // 128 KiB are a megabit, which takes a second.
        fs::write(agent.path("rate"), "1M\n").unwrap();
        let slow = |agent: &Agent| reading(&agent.path("s"), 131_072) >= Duration::from_millis(900);
        let deadline = Instant::now() + DEADLINE;
        while !slow(&agent) {
            assert!(Instant::now() < deadline, "{key}-file is not read");
        }
        fs::write(agent.path("rate"), "1T\n").unwrap();
        while slow(&agent) {
            assert!(Instant::now() < deadline, "{key}-file is not read again");
        }
        agent.end();
    }
}

#[test]
fn a_rate_of_each_connection_is_not_shared() {
    let mut agent =
        Agent::start(BINARY, "-U {}/s --filter=rate memory 1M connection-rate=1M burstiness=0");
    let start = Instant::now();
    let socket = &agent.path("s");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(reading(socket, 131_072) >= Duration::from_millis(900)));
        }
    });
    // A shared limit would take four seconds.
    assert!(start.elapsed() < Duration::from_millis(3500), "{:?}", start.elapsed());
    agent.end();
}

/// What a script is told about one client's requests: the same as nbdkit's, except for the
/// connection's description and the time.
fn scripted(program: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = format!(
        "logscript=case $act in Read|Write|Flush) \
         echo $act $type $connection $id $offset $count $return $error >> {};; esac",
        out.display()
    );
    let client = "/usr/bin/python3 -c 'import nbd, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1]); \
                  h.pread(512, 1024); h.pwrite(bytes(4096), 8192); h.flush(); h.shutdown()' \"$uri\"";
    let output = Command::new(program)
        .args(["-U", "-", "--filter=log", "memory", "1M", &script, "--run", client])
        .output()
        .unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    let mut text = String::new();
    fs::File::open(&out).unwrap().read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_script_is_told_every_line_as_by_nbdkit() {
    let ours = scripted(BINARY);
    assert_eq!(ours.len(), 6, "{ours:#?}");
    // nbdkit runs scripts concurrently, in no order. The agent runs them in the order of the log's
    // lines.
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(ours), sorted(scripted(NBDKIT)));
}

#[test]
fn a_signal_ends_what_waits_for_an_event() {
    let mut agent = Agent::start(
        BINARY,
        "-U {}/s --filter=exitwhen memory 1M exit-when-file-created={}/never exit-when-poll=1h",
    );
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().0.success());
}
