//! Without memory a request fails with ENOMEM and is logged as a warning. The session and the agent continue.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
};

use support::{
    DEADLINE,
    agent::Agent,
    client::{greeted, opened},
    wire::request,
};

use crate::BINARY;

const MIB: usize = 1 << 20;
const ENOMEM: u32 = 12;
/// The length of a write, in bytes.
const LEN: usize = 24 * MIB;
/// How much address space the agent may use beyond its use after the start, in bytes.
const ROOM: usize = 96 * MIB;

/// Limits the agent's memory to `ROOM` more.
fn starve(agent: &Agent) {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: usize = size.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    limit(agent, &(kib * 1024 + ROOM).to_string());
}

/// Sets the soft limit, which can be raised again.
fn limit(agent: &Agent, most: &str) {
    let (pid, most) = (agent.id().to_string(), format!("--as={most}:"));
    assert!(Command::new("prlimit").args(["--pid", &pid, &most]).status().unwrap().success());
}

fn client(agent: &Agent) -> UnixStream {
    let mut stream = greeted(&agent.path("s"));
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    opened(&mut stream);
    stream
}

/// Receives a simple reply and returns its error.
fn reply(stream: &mut UnixStream) -> u32 {
    let mut header = [0; 16];
    stream.read_exact(&mut header).unwrap();
    u32::from_be_bytes(header[4..8].try_into().unwrap())
}

/// Each client sends this many writes. Returns the errors.
fn crowd(clients: &mut [UnixStream], writes: usize, byte: u8) -> Vec<u32> {
    thread::scope(|scope| {
        let work = clients.iter_mut().enumerate().map(|(i, client)| {
            scope.spawn(move || {
                let payload = vec![byte; LEN];
                let mut answers = client.try_clone().unwrap();
                let reads = thread::spawn(move || {
                    (0..writes).map(|_| reply(&mut answers)).collect::<Vec<_>>()
                });
                for write in 0..writes {
                    let at = ((i * writes + write) * LEN) as u64;
                    client.write_all(&request(1, 7, at, u32::try_from(LEN).unwrap())).unwrap();
                    client.write_all(&payload).unwrap();
                }
                reads.join().unwrap()
            })
        });
        let work: Vec<_> = work.collect();
        work.into_iter().flat_map(|one| one.join().unwrap()).collect()
    })
}

fn fails_and_goes_on(words: &str, byte: u8) {
    let disk = |dir: &Path| fs::File::create(dir.join("disk")).unwrap().set_len(64 << 30).unwrap();
    let words = format!("-U {{}}/s {words}");
    let mut agent = Agent::start_by_in(Command::new(BINARY), disk, &words);
    let mut clients: Vec<_> = (0..6).map(|_| client(&agent)).collect();
    // Memory that is needed once per client and thread is allocated now.
    for client in &mut clients {
        client.write_all(&request(0, 7, 0, 512)).unwrap();
        assert_eq!(reply(client), 0);
        client.read_exact(&mut [0; 512]).unwrap();
    }
    starve(&agent);
    let errors = crowd(&mut clients, 3, byte);
    assert!(errors.iter().all(|error| [0, ENOMEM].contains(error)), "{words}: {errors:?}");
    assert!(errors.contains(&ENOMEM), "{words}: the test takes no more than there is: {errors:?}");
    agent.wait_for_line("memory");
    // Each session continues once there is memory again. The agent returns its own memory, but not the address
    // space that is reserved for stacks and heaps of threads.
    limit(&agent, "unlimited");
    for (i, client) in clients.iter_mut().enumerate() {
        let at = (i * 3 * LEN) as u64;
        client.write_all(&request(4, 7, at, u32::try_from(3 * LEN).unwrap())).unwrap();
        assert_eq!(reply(client), 0, "{words}: trim");
    }
    for (i, client) in clients.iter_mut().enumerate() {
        let at = (i * 3 * LEN) as u64;
        client.write_all(&[request(1, 7, at, 512), vec![byte; 512]].concat()).unwrap();
        assert_eq!(reply(client), 0, "{words}: a small write");
        client.write_all(&request(0, 7, at, 512)).unwrap();
        assert_eq!(reply(client), 0, "{words}: its bytes");
        let mut bytes = [0; 512];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [byte; 512]);
    }
    let lines = agent.end();
    assert!(!lines.iter().any(|line| line.contains("bug")), "{words}: {lines:#?}");
}

#[test]
fn writes_without_memory_fail_and_sessions_go_on() {
    for (words, byte) in [
        ("memory 64G", 7),
        ("file {}/disk", 7),
        ("--filter=cow memory 64G", 7),
        // Protected bytes may be overwritten with themselves.
        ("--filter=protect memory 64G protect=0-64000000000", 0),
    ] {
        fails_and_goes_on(words, byte);
    }
}
