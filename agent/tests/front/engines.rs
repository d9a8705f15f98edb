//! A file with io_uring and with threads, with and without the page cache: the same bytes, and the same errors if
//! the medium has some.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{Read, Write},
    ops::Range,
    os::unix::net::UnixStream,
};

use support::{
    DEADLINE,
    agent::Agent,
    client::{greeted, opened},
    random::{Random, seed},
    wire::{FLUSH, READ, WRITE, ZERO},
};

use crate::{BINARY, durability::Failing};

const EIO: u32 = 5;
const ENOSPC: u32 = 28;

/// The options for each way to serve a file.
pub(crate) const ENGINES: [&str; 2] = ["--io=auto", "--io=threads"];
const CACHES: [&str; 2] = ["", "cache=none"];

/// The most requests in flight.
const DEPTH: usize = 48;
const REQUESTS: u64 = 600;
/// The last block is incomplete.
const SIZE: usize = (2 << 20) + 1000;

struct Request {
    command: u16,
    fua: bool,
    at: usize,
    data: Vec<u8>,
}

impl Request {
    fn range(&self) -> Range<usize> {
        self.at..self.at + self.data.len()
    }

    fn bytes(&self, cookie: u64) -> Vec<u8> {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend(u16::from(self.fua).to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend((self.at as u64).to_be_bytes());
        bytes.extend(u32::try_from(self.data.len()).unwrap().to_be_bytes());
        if self.command == WRITE {
            bytes.extend(&self.data);
        }
        bytes
    }
}

/// A connection and its requests in flight.
struct Client {
    stream: UnixStream,
    out: HashMap<u64, Request>,
    cookie: u64,
}

impl Client {
    fn new(agent: &Agent) -> Self {
        let mut stream = greeted(&agent.path("s"));
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        opened(&mut stream);
        Self { stream, out: HashMap::new(), cookie: 0 }
    }

    fn send(&mut self, request: Request) {
        self.cookie += 1;
        self.stream.write_all(&request.bytes(self.cookie)).unwrap();
        self.out.insert(self.cookie, request);
    }

    /// Receives a reply: its request, with the data of a read, and its error.
    fn reply(&mut self) -> (Request, u32) {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).unwrap();
        assert_eq!(header[..4], 0x6744_6698_u32.to_be_bytes());
        let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
        let cookie = u64::from_be_bytes(header[8..].try_into().unwrap());
        let mut request = self.out.remove(&cookie).expect("a request that is out");
        if request.command == READ && error == 0 {
            self.stream.read_exact(&mut request.data).unwrap();
        }
        (request, error)
    }
}

/// Half of all ranges consist of whole blocks.
fn random_range(random: &mut Random) -> Range<usize> {
    let bits = random.index(18);
    let len = 1 + random.index(1 << bits);
    let at = random.index(SIZE - len);
    if random.one_in(2) {
        return at..at + len;
    }
    let at = at / 4096 * 4096;
    at..(at + len.next_multiple_of(4096)).min(SIZE)
}

fn random_request(random: &mut Random) -> Request {
    let range = random_range(random);
    let command = [READ, READ, WRITE, WRITE, WRITE, ZERO, FLUSH][random.index(7)];
    let len = if command == FLUSH { 0 } else { range.len() };
    let byte = if command == WRITE { u8::try_from(random.index(255)).unwrap() + 1 } else { 0 };
    let fua = matches!(command, WRITE | ZERO) && random.one_in(4);
    let at = if command == FLUSH { 0 } else { range.start };
    Request { command, fua, at, data: vec![byte; len] }
}

/// Receives a reply and compares it with the expected content of the file.
fn settle(client: &mut Client, model: &mut [u8], what: &str) {
    let (request, error) = client.reply();
    let (command, range) = (request.command, request.range());
    assert_eq!(error, 0, "{what}: command {command} of {range:?}");
    match command {
        READ => assert!(request.data == model[range.clone()], "{what}: read {range:?}"),
        WRITE | ZERO => model[range].copy_from_slice(&request.data),
        _ => {}
    }
}

#[test]
fn random_requests_read_the_bytes_that_were_written() {
    let seed = seed("NEIGHBOURS_SEED");
    println!("NEIGHBOURS_SEED={seed}");
    let mut random = Random::new(seed);
    for io in ENGINES {
        for cache in CACHES {
            let what = format!("{io} {cache}");
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(SIZE as u64).unwrap();
            let mut model = vec![0; SIZE];
            let mut agent = Agent::start(
                BINARY,
                &format!("{io} -U {{}}/s file {} {cache}", file.path().display()),
            );
            for _ in 0..3 {
                let mut client = Client::new(&agent);
                for _ in 0..REQUESTS {
                    let request = random_request(&mut random);
                    // Requests in flight together are executed in any order.
                    let overlaps = |client: &Client| {
                        client.out.values().any(|other| {
                            let (a, b) = (request.range(), other.range());
                            a.start < b.end && b.start < a.end
                        })
                    };
                    while client.out.len() == DEPTH || overlaps(&client) {
                        settle(&mut client, &mut model, &what);
                    }
                    client.send(request);
                }
                while !client.out.is_empty() {
                    settle(&mut client, &mut model, &what);
                }
            }
            agent.end();
            assert!(fs::read(file.path()).unwrap() == model, "{what}: the file at the end");
        }
    }
}

/// Sends all requests at once. Returns the errors in the order of the requests.
fn errors(client: &mut Client, requests: impl Iterator<Item = Request>) -> Vec<u32> {
    let first = client.cookie + 1;
    requests.for_each(|request| client.send(request));
    let mut errors = vec![u32::MAX; client.out.len()];
    while !client.out.is_empty() {
        let before: Vec<u64> = client.out.keys().copied().collect();
        let (_, error) = client.reply();
        let cookie = before.into_iter().find(|cookie| !client.out.contains_key(cookie)).unwrap();
        errors[usize::try_from(cookie - first).unwrap()] = error;
    }
    errors
}

/// A request for a block of 64 KiB.
fn block(command: u16, fua: bool, nth: usize) -> Request {
    Request { command, fua, at: nth << 16, data: vec![7; 1 << 16] }
}

#[test]
fn a_file_that_shrinks_fails_those_requests_that_have_nothing_to_read() {
    for io in ENGINES {
        for cache in CACHES {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), vec![7; 64 << 16]).unwrap();
            let agent = Agent::start(
                BINARY,
                &format!("{io} -U {{}}/s file {} {cache}", file.path().display()),
            );
            let mut client = Client::new(&agent);
            OpenOptions::new().write(true).open(&file).unwrap().set_len(32 << 16).unwrap();
            // From each half in turn.
            let mixed = (0..64).map(|nth| block(READ, false, nth / 2 + nth % 2 * 32));
            let found = errors(&mut client, mixed);
            let expected: Vec<_> = (0..64).map(|nth| nth % 2 * EIO).collect();
            assert_eq!(found, expected, "{io} {cache}");
        }
    }
}

#[test]
fn where_a_device_fails_among_many_requests_those_fail_and_no_others() {
    let Some(device) = Failing::new() else { return };
    let path = device.device.display();
    // A block that has its space keeps it.
    device.make_room();
    let agent = Agent::start(BINARY, &format!("-U {{}}/s file {path}"));
    let mut client = Client::new(&agent);
    let durable = (0..8).map(|nth| block(WRITE, true, nth));
    assert_eq!(errors(&mut client, durable), [0; 8]);
    drop((client, agent));
    device.take_room();
    for io in ENGINES {
        for (cache, fua) in [("cache=none", false), ("cache=none", true), ("", true)] {
            let agent = Agent::start(BINARY, &format!("{io} -U {{}}/s file {path} {cache}"));
            let mut client = Client::new(&agent);
            // In turn a block that has its space and one that has none.
            let mixed = (0..16).map(|nth| block(WRITE, fua, nth / 2 + nth % 2 * 64));
            let found = errors(&mut client, mixed);
            let what = format!("{io} {cache} FUA {fua}: {found:?}");
            let failed = |error: &u32| matches!(*error, EIO | ENOSPC);
            assert!(found.iter().skip(1).step_by(2).all(failed), "{what}");
            // With the page cache a loss is reported to all who ask for durability, without it only to the writer
            // of the bytes.
            if !cache.is_empty() {
                assert!(found.iter().step_by(2).all(|&error| error == 0), "{what}");
            }
            let read = (0..8).map(|nth| block(READ, false, nth));
            assert_eq!(errors(&mut client, read), [0; 8], "{what}");
        }
    }
}
