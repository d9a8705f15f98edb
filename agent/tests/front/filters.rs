//! Layers about time and faults (delay, error, exitlast, exitwhen, log, pause, rate, stats), tested
//! from outside and compared with nbdkit.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use support::{
    agent::Agent,
    process::{fails_with, python},
};
use tempfile::TempDir;

use crate::BINARY;

/// Runs `code` in libnbd's Python with a connection `h` to the socket, and returns its output.
fn nbd(socket: &Path, code: &str) -> String {
    let start = "import nbd, sys\nh = nbd.NBD()\nh.add_meta_context('base:allocation')\n\
                 h.connect_unix(sys.argv[1])\n";
    python(&format!("{start}{code}"), &[socket.to_str().unwrap()])
}

/// Passes the same words to a server with `--run`, with `{}` for a directory, and returns one file
/// of the directory.
fn served_by(server: &str, words: &str, code: &str, file: &str) -> String {
    let dir = TempDir::new().unwrap();
    let words = words.replace("{}", dir.path().to_str().unwrap());
    fs::write(dir.path().join("client.py"), code).unwrap();
    let run = format!("/usr/bin/python3 {}/client.py \"$uri\"", dir.path().display());
    let output = Command::new(server)
        .args(["-U", "-"])
        .args(words.split(' '))
        .args(["--run", &run])
        .output()
        .unwrap_or_else(|error| panic!("{server}: {error}; install nbdkit"));
    assert!(output.status.success(), "{server}: {}", String::from_utf8_lossy(&output.stderr));
    match file {
        "" => String::from_utf8(output.stdout).unwrap(),
        _ => fs::read_to_string(dir.path().join(file)).unwrap(),
    }
}

const REQUESTS: &str = "import nbd, sys\n\
    h = nbd.NBD()\nh.connect_uri(sys.argv[1])\n\
    h.pread(4096, 8192)\nh.pwrite(b'x' * 4096, 4096)\n\
    h.pwrite(b'x' * 65536, 65536, nbd.CMD_FLAG_FUA)\nh.flush()\nh.trim(65536, 65536)\n\
    h.zero(4096, 4096)\nh.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE)\nh.cache(4096, 0)\nh.shutdown()\n";

#[test]
fn the_log_is_nbdkits_line_by_line() {
    let lines = |server| {
        let log = served_by(server, "--filter=log memory 1M logfile={}/log", REQUESTS, "log");
        // The time differs, and so do the block sizes, which nbdkit's disk does not report.
        let lines = log.lines().map(|line| line[27..].to_owned());
        lines.filter(|line| !line.contains(" Connect ")).collect::<Vec<_>>()
    };
    let ours = lines(BINARY);
    assert!(ours.len() > 20, "{ours:#?}");
    assert_eq!(ours, lines("nbdkit"));
}

#[test]
fn every_error_reaches_the_client_as_from_nbdkit() {
    let code = "import nbd, sys\nh = nbd.NBD()\nh.connect_uri(sys.argv[1])\n\
                try: h.pread(1, 0)\nexcept nbd.Error as error: print(error.errno)\n\
                h.flush()\n";
    for name in ["EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC", "ESHUTDOWN"] {
        let words = format!("--filter=error memory 1M error={name} error-rate=100%");
        for server in [BINARY, "nbdkit"] {
            assert_eq!(served_by(server, &words, code, "").trim(), name, "{server}");
        }
    }
}

#[test]
fn statistics_are_counted_as_nbdkit_counts_them() {
    let counted = |server| {
        let words = "--filter=stats memory 1M statsthreshold=0 statsfile={}/stats";
        let stats = served_by(server, words, REQUESTS, "stats");
        // Name, operations and bytes. The other fields are times.
        let lines = stats.lines().map(|line| {
            let parts: Vec<_> = line.split(", ").collect();
            format!("{}, {}", parts[0], parts[2])
        });
        lines.collect::<Vec<_>>()
    };
    let ours = counted(BINARY);
    assert!(ours.len() > 5, "{ours:#?}");
    assert_eq!(ours, counted("nbdkit"));
}

#[test]
fn statistics_are_told_at_usr1_while_clients_go_on() {
    let mut agent = Agent::start(BINARY, "-U {}/s --filter=stats memory 1M statsfile={}/stats");
    nbd(&agent.path("s"), "h.pread(512, 0)\nh.shutdown()");
    agent.signal(Signal::SIGUSR1);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = fs::read_to_string(agent.path("stats")).unwrap();
        if text.contains("read: 1 ops, ") {
            break;
        }
        assert!(Instant::now() < deadline, "no report: {text}");
        std::thread::yield_now();
    }
    agent.end();
}

#[test]
fn a_pause_holds_requests_until_it_is_over() {
    let mut agent =
        Agent::start(BINARY, "-U {}/s --filter=pause memory 1M pause-control={}/control");
    let code = format!(
        "import socket\n\
         control = socket.socket(socket.AF_UNIX)\ncontrol.connect({:?})\n\
         control.send(b'p\\n')\nprint(control.recv(9))\n\
         cookie = h.aio_pread(nbd.Buffer(512), 0)\nh.poll(300)\n\
         print(h.aio_command_completed(cookie))\n\
         control.send(b'q')\nprint(control.recv(9))\n\
         control.send(b'r')\nprint(control.recv(9))\n\
         while not h.aio_command_completed(cookie): h.poll(-1)\nh.shutdown()",
        agent.path("control")
    );
    assert_eq!(nbd(&agent.path("s"), &code), "b'P'\nFalse\nb'X'\nb'R'\n");
    agent.end();
    assert!(!agent.path("control").exists());
}

#[test]
fn delays_delay() {
    let mut agent = Agent::start(
        BINARY,
        "-U {}/s --filter=delay memory 1M delay-open=100ms delay-read=0.2 delay-close=300ms",
    );
    let start = Instant::now();
    nbd(&agent.path("s"), "h.pread(512, 0)\nh.pwrite(b'x', 0)\nh.shutdown()");
    assert!(start.elapsed() >= Duration::from_millis(600), "{:?}", start.elapsed());
    agent.end();
}

#[test]
fn a_rate_is_kept() {
    let mut agent = Agent::start(BINARY, "-U {}/s --filter=rate memory 1M rate=8M burstiness=0.1");
    let start = Instant::now();
    nbd(&agent.path("s"), "for i in range(16): h.pread(65536, i * 65536)\nh.shutdown()");
    // 8 Mbit, of which a tenth is free.
    assert!(start.elapsed() >= Duration::from_millis(850), "{:?}", start.elapsed());
    agent.end();
}

#[test]
fn the_last_client_or_a_file_ends_it() {
    let mut agent = Agent::start(BINARY, "-U {}/s --filter=exitlast memory 1M");
    nbd(&agent.path("s"), "h.shutdown()");
    assert!(agent.wait().0.success());
    let mut agent =
        Agent::start(BINARY, "-U {}/s --filter=exitwhen memory 1M exit-when-file-created={}/stop");
    nbd(
        &agent.path("s"),
        &format!("open({:?}, 'w')\nh.pread(1, 0)\nh.shutdown()", agent.path("stop")),
    );
    let (status, lines) = agent.wait();
    assert!(status.success() && lines.join("\n").contains("exit-when-file-created="), "{lines:#?}");
}

#[test]
fn wrong_words_are_one_line_that_names_them() {
    for (words, part) in [
        ("--filter=rate null rate=0", "rate=0"),
        ("--filter=delay null rdelay=x", "rdelay=x"),
        ("--filter=error null error=ENOENT", "error=ENOENT"),
        ("--filter=error null error-rate=2", "error-rate=2"),
        ("--filter=pause null", "pause-control"),
        ("--filter=pause null pause-control=/nonexistent/s", "pause-control=/nonexistent/s"),
        ("--filter=stats null", "statsfile"),
        ("--filter=log null logfile=/nonexistent/l", "logfile=/nonexistent/l"),
        ("--filter=log null logfile=/dev/null logformat=xml", "logformat=xml"),
        ("--filter=exitwhen null exit-when-pipe-closed=77", "exit-when-pipe-closed=77"),
    ] {
        let (code, stderr) = fails_with(BINARY, &format!("-U - {words}"));
        assert_eq!(code, 1, "{words}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{words}: {stderr}");
        assert!(stderr.contains(part), "{words}: {stderr}");
    }
}
