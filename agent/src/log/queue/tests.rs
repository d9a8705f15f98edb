use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::net::UnixDatagram,
    time::Duration,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use tempfile::TempDir;

use super::*;
use crate::log::outlet::{Datagrams, LogFile};

const PATIENCE: Duration = Duration::from_secs(30);

/// A queue to a pipe. The returned file is its reader.
fn to_a_pipe() -> (Arc<Queue>, File, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    // Opened at both ends, so that neither open waits.
    let reader = File::options().read(true).write(true).open(&path).unwrap();
    let outlet = Outlet::File(LogFile::open(&path).unwrap());
    let queue = Arc::new(Queue::new(outlet, Format::Human { colours: false }));
    (queue, reader, dir)
}

fn line(n: u64) -> Line {
    Line::new(Level::INFO, &"x".repeat(1000), &[("n", n)])
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

#[test]
fn logging_does_not_wait_for_a_pipe_that_is_not_read_and_losses_are_reported() {
    const LINES: u64 = 6_000;
    let (queue, reader, _dir) = to_a_pipe();
    queue.start(|| ()).unwrap();
    let started = Instant::now();
    (0..LINES).for_each(|n| queue.push(&line(n)));
    assert!(started.elapsed() < PATIENCE);
    assert!(queue.lock().bytes <= MOST_BYTES);
    assert!(!queue.flush(Instant::now() + Duration::from_millis(50)), "it is stuck");

    let mut reader = BufReader::new(reader).lines().map(Result::unwrap);
    let mut next = 0;
    let lost: u64 = loop {
        let line = reader.next().unwrap();
        if let Some(count) = line.split_once(" lines=") {
            assert!(line.contains(" WARN lines of the log are missing here"), "{line}");
            break count.1.parse().unwrap();
        }
        assert!(line.ends_with(&format!(" n={next}")), "in order: {line}");
        next += 1;
    };
    assert_eq!(next + lost, LINES);
    assert!(next > 1000, "the queue has room for bursts");
    queue.push(&line(LINES));
    assert!(reader.next().unwrap().ends_with(" n=6000"), "it goes on");
}

#[test]
fn the_count_of_lost_lines_stands_where_they_were_lost() {
    let (queue, reader, _dir) = to_a_pipe();
    queue.start(|| ()).unwrap();
    (0..6_000).for_each(|n| queue.push(&line(n)));
    let mut reader = BufReader::new(reader).lines().map(Result::unwrap);
    // Half of the queue becomes free, and more lines arrive before it is empty.
    while queue.lock().bytes > MOST_BYTES / 4 {
        reader.next().unwrap();
    }
    queue.push(&line(6_000));
    let rest: Vec<_> = reader.take_while(|line| !line.ends_with(" n=6000")).collect();
    let told = rest.iter().position(|line| line.contains("missing here")).expect("it is told");
    assert_eq!(told, rest.len() - 1, "after the last before it, before the first after it");
}

#[test]
fn a_daemon_that_does_not_read_delays_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let hung = UnixDatagram::bind(&path).unwrap();
    let outlet = Outlet::Datagrams(Datagrams::to(&path).unwrap());
    let queue = Arc::new(Queue::new(outlet, Format::Syslog));
    queue.start(|| ()).unwrap();
    let started = Instant::now();
    (0..1000).for_each(|n| queue.push(&line(n)));
    assert!(started.elapsed() < Duration::from_secs(5));
    // The daemon reads again: nothing is lost.
    hung.set_read_timeout(Some(PATIENCE)).unwrap();
    for n in 0..1000 {
        let mut text = vec![0; 4096];
        let len = hung.recv(&mut text).unwrap();
        assert!(text[..len].ends_with(format!(" n={n}").as_bytes()));
    }
    assert!(queue.flush(soon()));
}

#[test]
fn lines_that_cannot_be_written_are_counted_until_writing_works() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let outlet = Outlet::Datagrams(Datagrams::to(&path).unwrap());
    let queue = Arc::new(Queue::new(outlet, Format::Syslog));
    queue.push(&line(0));
    queue.start(|| ()).unwrap();
    (1..5).for_each(|n| queue.push(&line(n)));
    assert!(queue.flush(soon()));
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(PATIENCE)).unwrap();
    queue.push(&line(5));
    let receive = || {
        let mut text = vec![0; 4096];
        let len = daemon.recv(&mut text).unwrap();
        String::from_utf8(text[..len].to_vec()).unwrap()
    };
    assert!(receive().ends_with(" n=5"));
    assert!(receive().ends_with("could not be written in time lines=5"));
}

#[test]
fn a_file_is_opened_again_after_the_lines_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let outlet = Outlet::File(LogFile::open(&path).unwrap());
    let queue = Arc::new(Queue::new(outlet, Format::Human { colours: false }));
    queue.start(|| ()).unwrap();
    queue.push(&line(1));
    let moved = dir.path().join("log.1");
    fs::rename(&path, &moved).unwrap();
    queue.reopen(soon());
    assert!(path.exists(), "it is waited for");
    queue.push(&line(2));
    assert!(queue.flush(soon()));
    let text = |path| {
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    assert!(text(&moved).ends_with(" n=1\n") && text(&path).ends_with(" n=2\n"));
}

#[test]
fn suppressed_lines_are_reported_without_another_line() {
    let (queue, _reader, _dir) = to_a_pipe();
    let (told, is_told) = mpsc::channel();
    queue.start(move || told.send(()).unwrap()).unwrap();
    queue.tell_at(Instant::now() + Duration::from_millis(10));
    is_told.recv_timeout(PATIENCE).unwrap();
}
