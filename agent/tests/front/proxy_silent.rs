//! The plugin `nbd` before a server that falls silent after the negotiation: links have no threads, and the requests
//! of clients that have gone end.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    agent::{Agent, BINARY, PATIENCE, receive_greeting, request},
    proxy::proxy,
    proxy_waits::{count, until},
};

/// A server that answers requests to its export `alive`, and to others when it is told to. Before that it does not
/// even receive them.
struct Moody {
    socket: PathBuf,
    speaks: Arc<AtomicBool>,
    _dir: tempfile::TempDir,
}

impl Moody {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("far");
        let listener = UnixListener::bind(&socket).unwrap();
        let speaks = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&speaks);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, told) = (stream.unwrap(), Arc::clone(&told));
                // An error is the end of the connection.
                thread::spawn(move || serve(stream, &told).ok());
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

fn serve(mut stream: UnixStream, told: &AtomicBool) -> std::io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    stream.read_exact(&mut [0; 4])?;
    let alive = loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let mut data = vec![0; number(&header[12..])];
        stream.read_exact(&mut data)?;
        let reply = |kind: u32, data: &[u8]| {
            let len = u32::try_from(data.len()).unwrap().to_be_bytes();
            let magic = 0x3_e889_0455_65a9_u64.to_be_bytes();
            [&magic[..], &header[8..12], &kind.to_be_bytes(), &len, data].concat()
        };
        if header[8..12] == [0, 0, 0, 7] {
            // NBD_INFO_EXPORT: flushes are taken.
            let told = [&[0, 0][..], &(64_u64 << 20).to_be_bytes(), &[0, 5]].concat();
            stream.write_all(&[reply(3, &told), reply(1, &[])].concat())?;
            let name = &data[4..4 + number(&data[..4])];
            break name == b"alive";
        }
        stream.write_all(&reply(0x8000_0001, &[]))?;
    };
    loop {
        while !alive && !told.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        let mut header = [0; 28];
        stream.read_exact(&mut header)?;
        let (command, len) = (number(&header[6..8]), number(&header[24..]));
        if command == 1 {
            stream.read_exact(&mut vec![0; len])?;
        }
        let data = vec![0; if command == 0 { len } else { 0 }];
        stream.write_all(&[b"gDf\x98\0\0\0\0", &header[8..16], &data].concat())?;
    }
}

/// Has an export in the shortest way.
fn enter(stream: &mut (impl Read + Write), name: &str) {
    receive_greeting(stream);
    let option = [&3_u32.to_be_bytes()[..], b"IHAVEOPT\0\0\0\x01\0\0\0"].concat();
    let len = u8::try_from(name.len()).unwrap();
    stream.write_all(&[&option[..], &[len], name.as_bytes()].concat()).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
}

fn client(agent: &Agent, name: &str) -> UnixStream {
    let mut stream = UnixStream::connect(agent.path("s")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    enter(&mut stream, name);
    stream
}

/// What the agent has worked, in ticks of 10 ms.
fn processor_time(agent: &Agent) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.id())).unwrap();
    let behind_name = stat.rsplit_once(')').unwrap().1;
    behind_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

const CROWD: usize = 300;

#[test]
fn links_have_no_threads_and_what_clients_asked_that_left_ends() {
    let far = Moody::start();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let words = format!("-U {{}}/s --listen tcp:127.0.0.1:{port} nbd dynamic-export=true");
    let mut agent = Agent::start_with(Command::new(BINARY), &words, &[&far.word()]);
    // Another tenant: who comes over TCP is no user of this host.
    let mut other = TcpStream::connect(("127.0.0.1", port)).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    enter(&mut other, "alive");
    let mut read = || {
        let begun = Instant::now();
        other.write_all(&request(0, 0, 512)).unwrap();
        other.read_exact(&mut [0; 16 + 512]).unwrap();
        begun.elapsed()
    };
    read();
    let (threads, descriptors) = (count(&agent, "task"), count(&agent, "fd"));

    let mut crowd: Vec<_> = (0..CROWD).map(|_| client(&agent, "silent")).collect();
    assert!(count(&agent, "task") <= threads + 2, "{} threads", count(&agent, "task"));
    let ask = [request(0, 0, 4096), request(3, 0, 0), request(0, 1 << 20, 1 << 20)].concat();
    for client in &mut crowd {
        client.write_all(&ask.repeat(5)).unwrap();
    }
    until("requests wait", || count(&agent, "task") >= threads + 20);
    assert!(count(&agent, "task") <= threads + 64, "{} threads", count(&agent, "task"));
    // Most have more requests than memory allows. Those wait, and do not look again and again.
    let worked = processor_time(&agent);
    for _ in 0..20 {
        let took = read();
        assert!(took < Duration::from_secs(1), "another tenant waits {took:?}");
        thread::sleep(Duration::from_millis(50));
    }
    let worked = processor_time(&agent) - worked;
    assert!(worked < 40, "{worked} ticks of about 100");
    drop(crowd);
    until("descriptors go back", || count(&agent, "fd") <= descriptors);
    until("threads go back", || count(&agent, "task") <= threads + 2);
    assert!(read() < Duration::from_secs(1));
    agent.end();
}

#[test]
fn a_shared_link_goes_on_for_those_who_stay() {
    let far = Moody::start();
    let mut agent = proxy(&[&far.word(), "shared=true"]);
    let (threads, descriptors) = (count(&agent, "task"), count(&agent, "fd"));
    let mut leaving = client(&agent, "");
    // More than fits into the socket: the first stops half way.
    let write = [request(1, 0, 1 << 20), vec![7; 1 << 20]].concat();
    leaving.write_all(&write.repeat(8)).unwrap();
    until("they wait", || count(&agent, "task") >= threads + 4);
    let mut staying = client(&agent, "");
    staying.write_all(&request(0, 0, 512)).unwrap();
    drop(leaving);
    until("it has gone", || count(&agent, "fd") <= descriptors + 1);
    until("its threads have gone", || count(&agent, "task") <= threads + 2);
    far.speaks.store(true, Ordering::Relaxed);
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
    half.write_all(&request(0, 0, 512)).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    thread::sleep(Duration::from_secs(2));
    far.speaks.store(true, Ordering::Relaxed);
    let mut reply = [0; 16 + 512];
    half.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..8], *b"gDf\x98\0\0\0\0");
    agent.end();
}
