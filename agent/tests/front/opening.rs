//! Clients whose exports are being opened wait without a thread and delay no other client. The work for them
//! ends when they leave.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use support::{
    DEADLINE,
    agent::Agent,
    client::{greeted, opened},
    process::{count, is_running},
    until,
    wire::request,
};

use crate::BINARY;

/// A client that has asked for an export with NBD_OPT_EXPORT_NAME.
fn asked(socket: &Path, name: &str) -> UnixStream {
    let mut stream = greeted(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let len = u32::try_from(name.len()).unwrap();
    let option = [&3_u32.to_be_bytes()[..], b"IHAVEOPT\x00\x00\x00\x01", &len.to_be_bytes()];
    stream.write_all(&[&option.concat(), name.as_bytes()].concat()).unwrap();
    stream
}

/// Waits for the export and returns its size, or `None` if the agent closes instead.
fn got(stream: &mut UnixStream) -> Option<u64> {
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).ok()?;
    Some(u64::from_be_bytes(reply[..8].try_into().unwrap()))
}

fn open(socket: &Path, name: &str) -> UnixStream {
    let mut stream = asked(socket, name);
    got(&mut stream).unwrap_or_else(|| panic!("'{name}' was not opened"));
    stream
}

/// How long a write of 512 bytes takes.
fn write(stream: &mut UnixStream) -> Duration {
    let begun = Instant::now();
    stream.write_all(&[request(1, 7, 0, 512), vec![7; 512]].concat()).unwrap();
    stream.read_exact(&mut [0; 16]).unwrap();
    begun.elapsed()
}

/// The longest of many writes.
fn slowest(stream: &mut UnixStream) -> Duration {
    (0..100).map(|_| write(stream)).max().unwrap()
}

fn start(words: &[&str]) -> Agent {
    Agent::start_with(Command::new(BINARY), "--timeout 60 -U {}/s", words)
}

/// Far below the time that the others wait, and far above the delays of a busy machine.
const SOON: Duration = Duration::from_secs(1);
const CROWD: usize = 200;

#[test]
fn two_hundred_clients_that_wait_for_a_lock_delay_nobody_and_have_no_threads() {
    let dir = tempfile::tempdir().unwrap();
    let place = format!("dir={}", dir.path().display());
    let make = "command=truncate -s $size \"$disk\"";
    let mut agent = start(&["ondemand", "1M", "wait=true", make, &place]);
    let socket = agent.path("s");
    let first = open(&socket, "one");
    let mut other = open(&socket, "two");
    slowest(&mut other);
    let threads = count(agent.id(), "task");
    let mut waiting: Vec<_> = (0..CROWD).map(|_| asked(&socket, "one")).collect();
    // All of them have connected.
    until("they have connected", || count(agent.id(), "fd") >= CROWD);
    assert!(slowest(&mut other) < SOON);
    assert!(slowest(&mut open(&socket, "three")) < SOON, "others' disks are made too");
    assert!(count(agent.id(), "task") <= threads + 4, "{threads}, {}", count(agent.id(), "task"));
    // The agent does not wait for clients that leave.
    let mut last = waiting.pop().unwrap();
    drop(waiting);
    drop(first);
    assert_eq!(got(&mut last), Some(1 << 20));
    agent.end();
}

#[test]
fn a_lock_of_another_process_is_waited_for_without_a_thread() {
    let dir = tempfile::tempdir().unwrap();
    let place = format!("dir={}", dir.path().display());
    let words = ["ondemand", "1M", "wait=true", "command=truncate -s $size \"$disk\"", &place];
    let (mut agent, mut holder) = (start(&words), start(&words));
    let held: Vec<_> = (0..100).map(|n| open(&holder.path("s"), &n.to_string())).collect();
    let mut other = open(&agent.path("s"), "other");
    // More than there are threads for work that blocks.
    let mut waiting: Vec<_> = (0..100).map(|n| asked(&agent.path("s"), &n.to_string())).collect();
    assert!(slowest(&mut other) < SOON);
    let begun = Instant::now();
    open(&agent.path("s"), "one more");
    assert!(begun.elapsed() < SOON, "no thread was free to make a disk");
    drop(held);
    assert!(waiting.iter_mut().all(|stream| got(stream).is_some()));
    holder.end();
    agent.end();
}

#[test]
fn clients_that_wait_for_a_time_delay_nobody() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let path = file.path().to_str().unwrap();
    let mut agent = start(&["--filter=delay", "file", path, "delay-open=3"]);
    let socket = agent.path("s");
    let mut other = open(&socket, "");
    slowest(&mut other);
    let threads = count(agent.id(), "task");
    let begun = Instant::now();
    let mut waiting: Vec<_> = (0..CROWD).map(|_| asked(&socket, "")).collect();
    assert!(slowest(&mut other) < SOON);
    assert!(
        count(agent.id(), "task") <= threads + 70,
        "opening a file takes a thread for a moment"
    );
    assert!(waiting.iter_mut().all(|stream| got(stream) == Some(1 << 20)));
    assert!((3..20).contains(&begun.elapsed().as_secs()), "all at once");
    agent.end();
}

/// The ids that commands have appended to a file.
fn ids(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn lives(id: &str) -> bool {
    is_running(id.parse().unwrap())
}

/// A command that never ends and starts another one. Other clients are still served.
const HANGS: &str = "command=sleep 1000 & echo $! >> \"$ids\"; echo $$ >> \"$ids\"; wait";

#[test]
fn a_command_ends_with_its_client_and_few_run_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ids");
    let word = format!("ids={}", path.display());
    let mut agent = start(&["tmpdisk", "1M", HANGS, &word]);
    let threads = count(agent.id(), "task");
    let waiting: Vec<_> = (0..200).map(|_| asked(&agent.path("s"), "")).collect();
    // A tenant may have four.
    until("four run", || ids(&path).len() == 8);
    // Time in which a fifth one would start by mistake. There is no event to wait for.
    thread::sleep(Duration::from_millis(200));
    let running = ids(&path);
    assert_eq!(running.len(), 8);
    // Threads were used to prepare the commands, but no thread waits for them.
    assert!(running.iter().all(|id| lives(id)) && count(agent.id(), "task") <= threads + 64);
    drop(waiting);
    until("all have ended", || !ids(&path).iter().any(|id| lives(id)));
    let made = || {
        let entries = fs::read_dir(agent.dir.path()).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    };
    until("nothing stays behind", || made() == 0);
    agent.end();
}

#[test]
fn at_the_agents_end_its_commands_end_and_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ids");
    let (word, place) =
        (format!("ids={}", path.display()), format!("dir={}", dir.path().display()));
    let mut agent = start(&["ondemand", "1M", HANGS, &word, &place]);
    let mut waiting = asked(&agent.path("s"), "one");
    until("it runs", || ids(&path).len() == 2);
    let begun = Instant::now();
    agent.end();
    assert!(begun.elapsed() < Duration::from_secs(4), "it is not waited for");
    assert_eq!(got(&mut waiting), None);
    assert!(!ids(&path).iter().any(|id| lives(id)));
    let left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [path]);
}

#[test]
fn a_client_that_waits_is_told_when_the_agent_ends() {
    let mut agent = start(&["--filter=delay", "memory", "1M", "delay-open=50"]);
    let mut stream = greeted(&agent.path("s"));
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream.write_all(b"IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x06\0\0\0\0\0\0").unwrap();
    // No event shows that the session waits.
    thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    agent.end();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..16], 0x8000_0007_u32.to_be_bytes(), "NBD_REP_ERR_SHUTDOWN");
    assert!(begun.elapsed() < DEADLINE);
}

#[test]
fn a_script_that_describes_exports_ends_with_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ids");
    let script = format!("exportdesc=script:echo $$ >> {}; exec sleep 1000", path.display());
    let mut agent = start(&["--filter=exportname", "memory", "1M", &script]);
    let threads = count(agent.id(), "task");
    let waiting: Vec<_> = (0..50).map(|_| asked(&agent.path("s"), "")).collect();
    until("four run", || ids(&path).len() == 4);
    assert!(count(agent.id(), "task") <= threads + 4);
    drop(waiting);
    until("all have ended", || !ids(&path).iter().any(|id| lives(id)));
    agent.end();
}

#[test]
fn a_client_that_sends_no_more_gets_its_answer() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let mut agent = start(&["file", file.path().to_str().unwrap()]);
    for _ in 0..20 {
        let mut stream = asked(&agent.path("s"), "");
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(got(&mut stream), Some(1 << 20));
    }
    agent.end();
}

#[test]
fn a_file_that_was_resized_or_replaced_is_seen_by_the_next_client() {
    let dir = tempfile::tempdir().unwrap();
    let (path, second) = (dir.path().join("one"), dir.path().join("two"));
    fs::write(&path, [1; 4096]).unwrap();
    fs::write(&second, [1; 4096]).unwrap();
    let (one, two) = (path.to_str().unwrap(), second.to_str().unwrap());
    for (words, more) in [
        (&["file", one][..], 0),
        (&["file", one, "cache=none"], 0),
        (&["--filter=cow", "file", one], 0),
        (&["split", one, two], 4096),
    ] {
        let mut agent = start(words);
        let size = || opened(&mut greeted(&agent.path("s")));
        let first_byte = || {
            let mut stream = open(&agent.path("s"), "");
            stream.write_all(&request(0, 7, 0, 1)).unwrap();
            let mut reply = [0; 17];
            stream.read_exact(&mut reply).unwrap();
            reply[16]
        };
        assert_eq!(size(), 4096 + more, "{words:?}");
        fs::File::options().write(true).open(&path).unwrap().set_len(8192).unwrap();
        assert_eq!(size(), 8192 + more, "{words:?}");
        assert_eq!(first_byte(), 1);
        fs::write(dir.path().join("new"), [2; 12288]).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(size(), 12288 + more, "{words:?}");
        assert_eq!(first_byte(), 2);
        fs::remove_file(&path).unwrap();
        assert_eq!(got(&mut asked(&agent.path("s"), "")), None, "{words:?}");
        agent.wait_for_line("export not opened");
        fs::write(&path, [1; 4096]).unwrap();
        assert_eq!(size(), 4096 + more, "it is back");
        agent.end();
    }
}

#[test]
fn a_file_of_root_is_served_after_a_change_of_the_user() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // Only root may enter it.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, [1; 4096]).unwrap();
    let mut agent = start(&["-u", "nobody", "file", path.to_str().unwrap()]);
    let mut stream = open(&agent.path("s"), "");
    write(&mut stream);
    assert_eq!(fs::read(&path).unwrap()[..512], [7; 512]);
    fs::File::options().write(true).open(&path).unwrap().set_len(8192).unwrap();
    assert_eq!(opened(&mut greeted(&agent.path("s"))), 8192);
    agent.end();
}

#[test]
fn over_a_disk_of_one_connection_no_client_reads_the_writes_of_another() {
    let make = "command=truncate -s $size \"$disk\"";
    let mut agent = start(&["--filter=cow", "tmpdisk", "1M", make]);
    let socket = agent.path("s");
    let read = |stream: &mut UnixStream| {
        stream.write_all(&request(0, 7, 0, 512)).unwrap();
        let mut reply = [1; 16 + 512];
        stream.read_exact(&mut reply).unwrap();
        reply[16..].to_vec()
    };
    let mut kept = open(&socket, "");
    write(&mut kept);
    let descriptors = count(agent.id(), "fd");
    for n in 0..50 {
        let mut stream = open(&socket, if n % 2 == 0 { "" } else { "other" });
        assert_eq!(read(&mut stream), [0; 512]);
        write(&mut stream);
        assert_eq!(read(&mut stream), [7; 512]);
    }
    assert_eq!(read(&mut kept), [7; 512]);
    until("they are closed", || count(agent.id(), "fd") <= descriptors);
    agent.end();
}

#[test]
fn overlays_in_which_nothing_was_written_hold_no_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..50 {
        fs::write(dir.path().join(n.to_string()), [0; 4096]).unwrap();
    }
    let place = format!("dir={}", dir.path().display());
    let mut agent = start(&["--filter=cow", "file", &place]);
    let socket = agent.path("s");
    let mut kept = open(&socket, "0");
    write(&mut kept);
    drop(kept);
    let descriptors = count(agent.id(), "fd");
    for n in 1..50 {
        drop(open(&socket, &n.to_string()));
    }
    until("they are closed", || count(agent.id(), "fd") <= descriptors + 2);
    let mut again = open(&socket, "0");
    again.write_all(&request(0, 7, 0, 512)).unwrap();
    let mut reply = [1; 16 + 512];
    again.read_exact(&mut reply).unwrap();
    assert_eq!(reply[16..], [7; 512]);
    agent.end();
}

#[test]
fn a_client_that_comes_again_at_once_finds_its_disk_free() {
    let dir = tempfile::tempdir().unwrap();
    let place = format!("dir={}", dir.path().display());
    let mut agent = start(&["ondemand", "1M", "command=truncate -s $size \"$disk\"", &place]);
    let socket = agent.path("s");
    // The client keeps its end open until the next one has the disk.
    let mut last = open(&socket, "one");
    for n in 0..50 {
        last.write_all(&request(2, 7, 0, 0)).unwrap();
        assert_eq!(last.read(&mut [0]).unwrap(), 0);
        let mut next = asked(&socket, "one");
        assert_eq!(got(&mut next), Some(1 << 20), "{n}");
        last = next;
    }
    agent.end();
}
