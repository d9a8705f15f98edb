//! The plugin `nbd` in front of a server that falls silent after the negotiation: connections need no threads, and
//! the requests of clients that have gone end.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use support::{
    DEADLINE, Gate,
    agent::Agent,
    client::{opened_export, receive_greeting},
    process::{count, processor_time},
    until,
    wire::{
        FLUSH, OPT_GO, READ, REP_ACK, REP_ERR_UNSUP, REP_INFO, WRITE, option_reply, request,
        simple_reply,
    },
};

use crate::{BINARY, remote::proxy};

/// A server that answers requests for its export `alive` at once, and for other exports only when it is told to.
/// Before that it does not even receive them.
struct Moody {
    socket: PathBuf,
    speaks: Arc<Gate>,
    _dir: tempfile::TempDir,
}

impl Moody {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("far");
        let listener = UnixListener::bind(&socket).unwrap();
        let speaks = Arc::new(Gate::default());
        let gate = Arc::clone(&speaks);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, gate) = (stream.unwrap(), Arc::clone(&gate));
                // An error ends the connection.
                thread::spawn(move || serve(stream, &gate).ok());
            }
        });
        Self { socket, speaks, _dir: dir }
    }

    fn word(&self) -> String {
        format!("socket={}", self.socket.display())
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

fn serve(mut stream: UnixStream, gate: &Gate) -> std::io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    stream.read_exact(&mut [0; 4])?;
    let alive = loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let mut data = vec![0; number(&header[12..])];
        stream.read_exact(&mut data)?;
        let option = u32::from_be_bytes(header[8..12].try_into().unwrap());
        if option == OPT_GO {
            // NBD_INFO_EXPORT, with flushes supported.
            let told = [&[0, 0][..], &(64_u64 << 20).to_be_bytes(), &[0, 5]].concat();
            let replies =
                [option_reply(option, REP_INFO, &told), option_reply(option, REP_ACK, &[])];
            stream.write_all(&replies.concat())?;
            let name = &data[4..4 + number(&data[..4])];
            break name == b"alive";
        }
        stream.write_all(&option_reply(option, REP_ERR_UNSUP, &[]))?;
    };
    if !alive {
        gate.pass();
    }
    loop {
        let mut header = [0; 28];
        stream.read_exact(&mut header)?;
        let command = u16::from_be_bytes(header[6..8].try_into().unwrap());
        let (cookie, len) =
            (u64::from_be_bytes(header[8..16].try_into().unwrap()), number(&header[24..]));
        if command == WRITE {
            stream.read_exact(&mut vec![0; len])?;
        }
        let data = vec![0; if command == READ { len } else { 0 }];
        stream.write_all(&[simple_reply(cookie, 0), data].concat())?;
    }
}

/// Opens an export.
fn enter(stream: &mut (impl Read + Write), name: &str) {
    receive_greeting(stream);
    opened_export(stream, name);
}

fn client(agent: &Agent, name: &str) -> UnixStream {
    let mut stream = UnixStream::connect(agent.path("s")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    enter(&mut stream, name);
    stream
}

const CROWD: usize = 300;

#[test]
fn connections_have_no_threads_and_requests_of_clients_that_left_end() {
    let far = Moody::start();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let words = format!("-U {{}}/s --listen tcp:127.0.0.1:{port} nbd dynamic-export=true");
    let mut agent = Agent::start_with(Command::new(BINARY), &words, &[&far.word()]);
    // Another tenant, because a TCP client is not a user of this host.
    let mut other = TcpStream::connect(("127.0.0.1", port)).unwrap();
    other.set_read_timeout(Some(DEADLINE)).unwrap();
    enter(&mut other, "alive");
    let mut read = || {
        let begun = Instant::now();
        other.write_all(&request(READ, 7, 0, 512)).unwrap();
        other.read_exact(&mut [0; 16 + 512]).unwrap();
        begun.elapsed()
    };
    read();
    let (threads, descriptors) = (count(agent.id(), "task"), count(agent.id(), "fd"));

    let mut crowd: Vec<_> = (0..CROWD).map(|_| client(&agent, "silent")).collect();
    assert!(count(agent.id(), "task") <= threads + 2, "{} threads", count(agent.id(), "task"));
    let ask =
        [request(READ, 7, 0, 4096), request(FLUSH, 7, 0, 0), request(READ, 7, 1 << 20, 1 << 20)]
            .concat();
    for client in &mut crowd {
        client.write_all(&ask.repeat(5)).unwrap();
    }
    until("requests wait", || count(agent.id(), "task") >= threads + 20);
    assert!(count(agent.id(), "task") <= threads + 64, "{} threads", count(agent.id(), "task"));
    // Most clients have more requests than memory allows. Those requests wait, without polling.
    let worked = processor_time(agent.id());
    for _ in 0..20 {
        let took = read();
        assert!(took < Duration::from_secs(1), "another tenant waits {took:?}");
        thread::sleep(Duration::from_millis(50));
    }
    let worked = processor_time(agent.id()).saturating_sub(worked);
    assert!(worked < Duration::from_millis(400), "{worked:?} of about 1 s");
    drop(crowd);
    until("descriptors go back", || count(agent.id(), "fd") <= descriptors);
    until("threads go back", || count(agent.id(), "task") <= threads + 2);
    assert!(read() < Duration::from_secs(1));
    agent.end();
}

#[test]
fn a_shared_connection_goes_on_for_clients_that_stay() {
    let far = Moody::start();
    let mut agent = proxy(&[&far.word(), "shared=true"]);
    let (threads, descriptors) = (count(agent.id(), "task"), count(agent.id(), "fd"));
    let mut leaving = client(&agent, "");
    // More than fits into the socket, so the first write stops half way.
    let write = [request(WRITE, 7, 0, 1 << 20), vec![7; 1 << 20]].concat();
    leaving.write_all(&write.repeat(8)).unwrap();
    until("they wait", || count(agent.id(), "task") >= threads + 4);
    let mut staying = client(&agent, "");
    staying.write_all(&request(READ, 7, 0, 512)).unwrap();
    drop(leaving);
    until("it has gone", || count(agent.id(), "fd") <= descriptors + 1);
    until("its threads have gone", || count(agent.id(), "task") <= threads + 2);
    far.speaks.open();
    let mut reply = [0; 16 + 512];
    staying.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..8], *b"gDf\x98\0\0\0\0");
    let lines = agent.end();
    assert!(!lines.iter().any(|line| line.contains("broke")), "{lines:#?}");
}

#[test]
fn a_client_that_has_ended_its_sending_still_gets_its_answers() {
    let far = Moody::start();
    let mut agent = proxy(&[&far.word()]);
    let mut half = client(&agent, "");
    half.write_all(&request(READ, 7, 0, 512)).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    // Time in which the session would end by mistake. There is no event to wait for.
    thread::sleep(Duration::from_secs(2));
    far.speaks.open();
    let mut reply = [0; 16 + 512];
    half.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..8], *b"gDf\x98\0\0\0\0");
    agent.end();
}
