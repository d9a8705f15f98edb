//! Rules that are read again while clients are connected. The requests of a client that the new rules deny
//! are finished, and then its connection is closed.

use std::{
    fs,
    io::{BufRead, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use support::{
    DEADLINE,
    agent::Agent,
    client::{greeted, opened, receive_greeting},
    wire::request,
};

use crate::BINARY;

/// An agent that reads `rules` again at HUP, and its TCP port.
fn agent(rules: &Path, words: &str) -> (Agent, u16) {
    fs::write(rules, "allow any\n").unwrap();
    let rules = rules.display();
    let mut agent = Agent::start(
        BINARY,
        &format!("--print-uri -U {{}}/s --listen tcp:127.0.0.1:0 --access-file {rules} {words}"),
    );
    let uri = agent.stdout().lines().nth(1).unwrap().unwrap();
    (agent, uri.rsplit_once(':').unwrap().1.parse().unwrap())
}

fn over_tcp(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    receive_greeting(&mut stream);
    stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    stream
}

/// Reads 512 bytes.
fn read_at(stream: &mut TcpStream, at: u64) -> [u8; 512] {
    stream.write_all(&request(0, 7, at, 512)).unwrap();
    let mut reply = [0; 16 + 512];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[4..8], [0; 4]);
    reply[16..].try_into().unwrap()
}

fn is_closed(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    match stream.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn clients_that_new_rules_deny_are_closed_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    let (mut agent, port) = agent(&rules, "memory 64M");
    let socket = agent.path("s");
    // One client writes continuously, one is idle, one is in its handshake, and one remains connected.
    let mut writer = greeted(&socket);
    opened(&mut writer);
    let mut idle = greeted(&socket);
    opened(&mut idle);
    let mut shaking = greeted(&socket);
    let mut stays = over_tcp(port);
    let (count, counts) = channel();
    let writing = thread::spawn(move || {
        let mut done = 0_u64;
        loop {
            let block = [u8::try_from(done % 251).unwrap() + 1; 512];
            let bytes = [&request(1, 7, done % 100_000 * 512, 512)[..], &block].concat();
            if writer.write_all(&bytes).and_then(|()| writer.read_exact(&mut [0; 16])).is_err() {
                return done;
            }
            done += 1;
            count.send(done).ok();
        }
    });
    while counts.recv_timeout(DEADLINE).unwrap() < 100 {}

    fs::write(&rules, "deny anyunix\nallow any\n").unwrap();
    agent.signal(Signal::SIGHUP);
    let started = Instant::now();
    let done = writing.join().unwrap();
    assert!(is_closed(&mut idle) && is_closed(&mut shaking));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    // An acknowledged write is there.
    let last = (done - 1) % 100_000;
    assert_eq!(read_at(&mut stays, last * 512), [u8::try_from((done - 1) % 251).unwrap() + 1; 512]);
    drop(stays);
    let lines = agent.end();
    let rule = "deny anyunix (line 1 of --access-file)";
    let ended = format!("end=cut off: the access rules were changed: {rule}");
    let count = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
    assert_eq!((count(&ended), count("refused peer=unix")), (2, 1), "{lines:#?}");
    assert_eq!(count(&format!("rule={rule}")), 1, "{lines:#?}");
}

#[test]
fn requests_under_way_are_finished_and_no_new_ones_are_begun() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    let words = "--filter=delay memory 1M delay-write=1500ms";
    let (agent, port) = agent(&rules, words);
    let mut writer = greeted(&agent.path("s"));
    opened(&mut writer);
    writer.write_all(&[&request(1, 7, 0, 512)[..], &[1; 512]].concat()).unwrap();
    // The write has been received once the read after it is answered.
    writer.write_all(&request(0, 7, 8192, 512)).unwrap();
    writer.read_exact(&mut [0; 16 + 512]).unwrap();
    fs::write(&rules, "deny anyunix\nallow any\n").unwrap();
    agent.signal(Signal::SIGHUP);
    agent.wait_for_line("access rules read again");
    // Long enough for the session to notice the rules, and shorter than the write.
    thread::sleep(Duration::from_millis(300));
    writer.write_all(&[&request(1, 7, 4096, 512)[..], &[2; 512]].concat()).unwrap();
    let mut replies = Vec::new();
    writer.set_read_timeout(Some(DEADLINE)).unwrap();
    // The bytes that the agent did not read cause a reset.
    writer.read_to_end(&mut replies).ok();
    assert_eq!(replies.len(), 16, "one reply: to the write that was under way");
    assert_eq!(replies[4..8], [0; 4]);
    let mut other = over_tcp(port);
    assert_eq!((read_at(&mut other, 0), read_at(&mut other, 4096)), ([1; 512], [0; 512]));
}

#[test]
fn requests_that_take_too_long_do_not_keep_a_client_in() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    let (agent, _) = agent(&rules, "--filter=delay memory 1M delay-write=1h");
    let mut writer = greeted(&agent.path("s"));
    opened(&mut writer);
    writer.write_all(&[&request(1, 7, 0, 512)[..], &[1; 512]].concat()).unwrap();
    writer.write_all(&request(0, 7, 8192, 512)).unwrap();
    writer.read_exact(&mut [0; 16 + 512]).unwrap();
    fs::write(&rules, "").unwrap();
    agent.signal(Signal::SIGHUP);
    assert!(is_closed(&mut writer));
    agent.wait_for_line("access rules were changed: not named by --access-file");
}
