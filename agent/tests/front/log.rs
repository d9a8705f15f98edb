//! Where the log goes, and that bytes of a peer never reach it unescaped.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt},
        net::UnixStream,
    },
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{signal::Signal, stat::Mode},
    unistd::{geteuid, mkfifo},
};
use support::{
    DEADLINE,
    agent::Agent,
    client::{greeted, opened},
    process::assert_refuses,
    wire::request,
};

use crate::BINARY;

/// Polls until the condition holds.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < DEADLINE, "{what}");
        thread::yield_now();
    }
}

/// A full FIFO, open for reading and writing. Nothing reads from it unless the test does.
fn full_pipe(path: &Path) -> fs::File {
    mkfifo(path, Mode::S_IRWXU).unwrap();
    let mut pipe = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .unwrap();
    while pipe.write(&[b'\n'; 4096]).is_ok() {}
    while pipe.write(b"\n").is_ok() {}
    pipe
}

/// One session: a name, a write, a read, the end.
fn use_disk(socket: &Path) {
    let mut stream = greeted(socket);
    assert_eq!(opened(&mut stream), 1 << 20);
    stream.write_all(&request(1, 7, 4096, 512)).unwrap();
    stream.write_all(&[7; 512]).unwrap();
    stream.write_all(&request(0, 7, 4096, 512)).unwrap();
    let mut replies = [0; 16 + 16 + 512];
    stream.read_exact(&mut replies).unwrap();
    assert_eq!(replies[32..], [7; 512]);
    stream.write_all(&request(2, 7, 0, 0)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// An agent whose standard error is a full pipe, `{}/pipe`, and that pipe.
fn logs_to_a_full_pipe(words: &str) -> (Agent, fs::File) {
    let mut pipe = None;
    let mut command = Command::new("sh");
    // Shells open a FIFO at once if it has a reader.
    command.args(["-c", r#"pipe=$TMPDIR/pipe; exec "$@" 2>>"$pipe""#, "sh", BINARY]);
    let prepare = |dir: &Path| pipe = Some(full_pipe(&dir.join("pipe")));
    let agent = Agent::start_by_in(command, prepare, words);
    (agent, pipe.unwrap())
}

#[test]
fn a_log_that_nobody_reads_delays_no_client() {
    for (words, params) in [
        ("", ""),
        ("-v ", ""),
        ("--log=json ", ""),
        ("--log={}/pipe ", ""),
        ("--filter=log ", " logfile={}/pipe"),
    ] {
        let (mut agent, _pipe) =
            logs_to_a_full_pipe(&format!("{words}-U {{}}/s memory 1M{params}"));
        let socket = agent.path("s");
        // With -v this makes more lines than the queue takes.
        (0..500).for_each(|_| use_disk(&socket));
        // The agent does not wait at its end for lines that were not written.
        let started = Instant::now();
        assert_eq!(agent.end(), Vec::<String>::new());
        assert!(started.elapsed() < Duration::from_secs(10), "{words}: {:?}", started.elapsed());
    }
}

#[test]
fn a_log_that_is_read_again_goes_on() {
    let (mut agent, pipe) = logs_to_a_full_pipe("-U {}/s memory 1M");
    use_disk(&agent.path("s"));
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut lines =
        BufReader::new(pipe).lines().map(Result::unwrap).filter(|line| !line.is_empty());
    for part in ["listening on unix:", " opened ", " session "] {
        let line = lines.next().unwrap();
        assert!(line.contains(part), "{part}: {line}");
    }
    agent.end();
}

#[test]
fn a_client_that_connects_in_a_loop_by_a_wild_name_does_not_fill_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut agent = Agent::start(BINARY, &format!("--log={} -U {{}}/s null 1M", log.display()));
    let started = Instant::now();
    let mut sessions = 0;
    while started.elapsed() < Duration::from_secs(3) {
        let mut stream = greeted(&agent.path("s"));
        stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\x10\0").unwrap();
        stream.write_all(&[1; 4096]).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
        sessions += 1;
    }
    let passed = started.elapsed();
    let text = || fs::read_to_string(&log).unwrap();
    let bytes = text().len();
    assert!(sessions > 300, "{sessions} sessions are no flood");
    // 200 lines at once and 20 per second, of at most half a kilobyte each.
    let most = (220 + 20 * usize::try_from(passed.as_secs() + 1).unwrap()) * 512;
    assert!(bytes < most, "{bytes} bytes in {passed:?} of {sessions} sessions");
    // The flood has stopped. The number of suppressed lines is logged even if no further line
    // follows.
    until("the count of what is missing", || text().contains("more than a client may cause"));
    let text = text();
    let told = text.lines().find(|line| line.contains("more than a client may cause")).unwrap();
    assert!(told.contains(" lines=") && told.contains(" tenant=\"uid:"), "{told}");
    let missing: usize =
        told.split_once(" lines=").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let written =
        text.lines().filter(|line| line.contains(" opened ") || line.contains(" session "));
    assert_eq!(missing + written.count(), 2 * sessions);
    agent.end();
}

/// Asks for an export whose name contains a line end and terminal escapes.
fn ask_for_a_wild_name(agent: &Agent) {
    let mut stream: UnixStream = greeted(&agent.path("s"));
    let name = b"a\nb\x1b[31m\"c";
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream.write_all(b"IHAVEOPT\x00\x00\x00\x01").unwrap();
    stream.write_all(&u32::try_from(name.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(name).unwrap();
    // The export is open once it is answered.
    stream.read_exact(&mut [0; 10]).unwrap();
}

#[test]
fn lines_go_to_a_file_which_hup_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fs::write(&log, "kept\n").unwrap();
    let mut agent = Agent::start(BINARY, &format!("--log={} -U {{}}/s null 1M", log.display()));
    ask_for_a_wild_name(&agent);
    let said = |path: &Path, part: &str| {
        until(&format!("{part} in {}", path.display()), || {
            fs::read_to_string(path).is_ok_and(|text| text.contains(part))
        });
    };
    said(&log, r#"export="a\nb\u{1b}[31m\"c""#);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("kept\n") && !text.contains('\x1b'), "{text}");
    let moved = dir.path().join("log.1");
    fs::rename(&log, &moved).unwrap();
    agent.signal(Signal::SIGHUP);
    until("a new file", || log.exists());
    ask_for_a_wild_name(&agent);
    said(&log, "export=");
    let stderr = agent.end();
    assert!(stderr.is_empty(), "{stderr:?}");
}

#[test]
fn json_is_an_object_a_line() {
    let mut agent = Agent::start(BINARY, "--log=json -U {}/s null 1M");
    ask_for_a_wild_name(&agent);
    agent.wait_for_line("\"export\"");
    let stderr = agent.end();
    assert!(!stderr.is_empty());
    for line in stderr {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
        assert!(line.contains("\"level\":\"INFO\"") && line.contains("\"timestamp\""), "{line}");
        assert!(!line.contains('\x1b'), "{line}");
    }
}

/// Asks for exports in one negotiation, and ends it.
fn ask_for(socket: &Path, names: &[&str]) {
    let mut stream = greeted(socket);
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    for name in names {
        let len = u32::try_from(name.len()).unwrap();
        let data = [&len.to_be_bytes()[..], name.as_bytes(), &[0; 2]].concat();
        stream.write_all(b"IHAVEOPT\0\0\0\x06").unwrap();
        stream.write_all(&u32::try_from(data.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&data).unwrap();
    }
    stream.write_all(b"IHAVEOPT\0\0\0\x02\0\0\0\0").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn an_export_that_is_not_given_is_named_once_and_in_words() {
    let user = if geteuid().is_root() { "-u nobody" } else { "" };
    let mut agent = Agent::start_by_in(
        Command::new(BINARY),
        |dir| {
            let images = dir.join("images");
            fs::create_dir(&images).unwrap();
            fs::write(images.join("secret"), [0; 512]).unwrap();
            let nobody = fs::Permissions::from_mode(0o0);
            fs::set_permissions(images.join("secret"), nobody).unwrap();
        },
        &format!("-U {{}}/s --listen tcp:127.0.0.1:0 {user} file dir={{}}/images"),
    );
    ask_for(&agent.path("s"), &["no\nsuch"]);
    ask_for(&agent.path("s"), &["secret", "secret", "secret"]);
    // NBD_OPT_EXPORT_NAME can be refused only by closing.
    let mut stream = greeted(&agent.path("s"));
    stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04gone").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    let lines = agent.end();
    let with = |part: &str| lines.iter().filter(|line| line.contains(part)).collect::<Vec<_>>();
    let [unknown] = with(r"no\nsuch")[..] else { panic!("named once: {lines:#?}") };
    for part in [" session ", r#"export="no\nsuch" refused="there is no such export""#] {
        assert!(unknown.contains(part), "{part} in {unknown}");
    }
    let [failed] = with("export not opened")[..] else { panic!("said once: {lines:#?}") };
    for part in [" ERROR ", r#"export="secret""#, "cannot open the disk: cannot open ", "/secret"] {
        assert!(failed.contains(part), "{part} in {failed}");
    }
    assert!(failed.contains(": Permission denied (os error 13)"), "{failed}");
    assert_eq!(with(r#"export="secret""#).len(), 2, "and in its session's line: {lines:#?}");
    assert_eq!(with(r#"export="gone""#).len(), 1, "{lines:#?}");
    assert!(with("served read-only").is_empty() && with("Some(").is_empty(), "{lines:#?}");
    assert!(with("Os {").is_empty(), "{lines:#?}");
}

#[test]
fn a_log_that_cannot_be_opened_is_named() {
    for (words, part) in [
        ("--log=/nonexistent/log null", "--log=/nonexistent/log: cannot open the file"),
        ("--log=nowhere null", "--log 'nowhere'; it can be stderr, json, syslog"),
    ] {
        assert_refuses(BINARY, words, part);
    }
}

#[test]
fn verbose_shows_the_protocol_escaped() {
    let mut agent = Agent::start(BINARY, "-v -U {}/s null 1M");
    ask_for_a_wild_name(&agent);
    let lines = agent.wait_for_line(" session ");
    for part in [
        "server: newstyle greeting, flags FIXED_NEWSTYLE | NO_ZEROES connection=1",
        "client: flags FIXED_NEWSTYLE | NO_ZEROES connection=1",
        r#"client: NBD_OPT_EXPORT_NAME "a\nb\u{1b}[31m\"c" connection=1"#,
        "server: size 1048576, flags HAS_FLAGS | ",
        " INFO opened connection=1 peer=unix:pid=",
    ] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} in {lines:#?}");
    }
    let mut stream = greeted(&agent.path("s"));
    assert_eq!(opened(&mut stream), 1 << 20);
    stream.write_all(&request(0, 7, 1 << 20, 512)).unwrap();
    stream.write_all(&request(2, 7, 0, 0)).unwrap();
    let lines = agent.wait_for_line(" session ");
    for part in [
        "client: NBD_CMD_READ connection=2 cookie=7 offset=1048576 length=512",
        "request refused: a range past the end of the export cookie=7 errno=EINVAL",
        "client: NBD_CMD_DISC connection=2",
    ] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} in {lines:#?}");
    }
    agent.end();
}

#[test]
fn the_log_shows_the_length_of_an_option_that_is_too_long() {
    let mut agent = Agent::start(BINARY, "-v -U {}/s null 1M");
    let mut stream = greeted(&agent.path("s"));
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream.write_all(b"IHAVEOPT\x00\x00\x00\x07\x00\x00\xc0\x00").unwrap();
    stream.write_all(&[b'x'; 0xc000]).unwrap();
    // NBD_OPT_ABORT.
    stream.write_all(b"IHAVEOPT\x00\x00\x00\x02\x00\x00\x00\x00").unwrap();
    let lines = agent.wait_for_line(" session ");
    for part in ["client: NBD_OPT_GO, 49152 bytes", "NBD_OPT_GO: NBD_REP_ERR_", "NBD_OPT_ABORT"] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} in {lines:#?}");
    }
    agent.end();
}
