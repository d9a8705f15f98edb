//! The end of an agent with clients connected. At TERM, clients in negotiation are told, accepted requests are
//! finished, and acknowledged writes are in the file. At KILL, acknowledged writes are in the file.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use nix::sys::signal::Signal;
use support::{
    DEADLINE,
    agent::Agent,
    client::Client,
    wire::{OPT_GO, WRITE, request, request_with},
};

/// The agent, built by cargo for these tests.
const BINARY: &str = env!("CARGO_BIN_EXE_agent");

#[test]
fn a_negotiating_client_is_told_that_the_server_shuts_down() {
    let mut agent = Agent::serve(BINARY, &["memory", "1M"]);
    let mut idle = agent.open();
    let mut client = agent.connect();
    client.greet();
    agent.signal(Signal::SIGTERM);
    // The end of the idle client's connection shows that the agent has handled the signal.
    assert!(idle.recv_to_end().is_empty());
    client.option(OPT_GO, &[0; 6]);
    assert_eq!(client.option_reply().0, (1 << 31) | 7, "NBD_REP_ERR_SHUTDOWN");
    assert!(client.recv_to_end().is_empty());
    assert!(agent.wait().0.success());
}

#[test]
fn answered_writes_are_in_the_file_after_the_end() {
    const BLOCK: usize = 64 << 10;
    const BLOCKS: u32 = 256;
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    fs::write(&disk, vec![0; BLOCK * BLOCKS as usize]).expect("a file");
    let mut agent = Agent::serve(BINARY, &["file", disk.to_str().expect("UTF-8")]);
    let mut client = agent.open();
    let mut sender = client.stream.try_clone().expect("a second handle");
    let writer = thread::spawn(move || {
        for i in 0..BLOCKS {
            let at = u64::from(i) * BLOCK as u64;
            let header = request(WRITE, i.into(), at, u32::try_from(BLOCK).expect("fits"));
            let bytes = [&header[..], &[0xa5; BLOCK]].concat();
            // The agent stops reading when it ends.
            if sender.write_all(&bytes).is_err() {
                break;
            }
        }
    });
    let mut answered = Vec::new();
    loop {
        let mut header = [0; 16];
        if client.stream.read_exact(&mut header).is_err() {
            break;
        }
        assert_eq!(header[4..8], [0; 4], "a write failed");
        answered.push(u64::from_be_bytes(header[8..].try_into().expect("8 bytes")));
        if answered.len() == 20 {
            agent.signal(Signal::SIGTERM);
        }
    }
    writer.join().expect("the writer");
    let (status, log) = agent.wait();
    assert!(status.success());
    let shut_down = log.iter().any(|line| line.contains("end=shut down"));
    assert!(shut_down, "it was cut off, or never saw the signal: {log:#?}");
    assert!(answered.len() >= 20);
    let bytes = fs::read(&disk).expect("the file");
    for (i, block) in bytes.chunks(BLOCK).enumerate() {
        if answered.contains(&(i as u64)) {
            assert!(block == [0xa5; BLOCK], "block {i} was answered and is not there");
        }
        // An unanswered write may be there or not, but never in part, because it had arrived completely.
        assert!(block.iter().all(|byte| *byte == block[0]), "block {i} is torn");
    }
}

/// Writes of one client: it writes its blocks repeatedly, with `WINDOW` writes in flight. Returns, for each block,
/// what was sent and what was acknowledged when the agent was killed.
fn write_until_killed(
    mut client: Client,
    first: usize,
    acknowledged: &AtomicUsize,
) -> Vec<(u64, u64)> {
    let mut blocks = vec![(0_u64, 0_u64); WINDOW];
    let write = |block: usize, stamp: u64| {
        let at = ((first + block) * BLOCK) as u64;
        // Some are to be durable at once.
        let flags = u16::from(stamp % 16 == 5);
        let len = u32::try_from(BLOCK).expect("short");
        let header = request_with(flags, WRITE, block as u64, at, len);
        [&header[..], &stamp.to_le_bytes().repeat(BLOCK / 8)].concat()
    };
    let all: Vec<u8> = (0..WINDOW).flat_map(|block| write(block, 1)).collect();
    for (sent, _) in &mut blocks {
        *sent = 1;
    }
    if client.stream.write_all(&all).is_err() {
        return blocks;
    }
    let mut reply = [0; 16];
    while client.stream.read_exact(&mut reply).is_ok() {
        assert_eq!(reply[4..8], [0; 4], "a write failed");
        let block = usize::from(reply[15]);
        let (sent, told) = &mut blocks[block];
        *told = *sent;
        *sent += 1;
        acknowledged.fetch_add(1, Ordering::Relaxed);
        if client.stream.write_all(&write(block, *sent)).is_err() {
            break;
        }
    }
    blocks
}

const BLOCK: usize = 4096;
const WINDOW: usize = 64;
const CLIENTS: usize = 16;

/// Kills an agent with 1,024 writes in flight. The writes that it acknowledged are in the file.
fn kill_in_the_middle(words: &[&str], disk: &Path) {
    println!("{words:?}");
    fs::write(disk, vec![0; CLIENTS * WINDOW * BLOCK]).expect("a file");
    let mut agent = Agent::serve(BINARY, words);
    let acknowledged = AtomicUsize::new(0);
    let clients: Vec<_> = (0..CLIENTS).map(|_| agent.open()).collect();
    let blocks: Vec<_> = thread::scope(|scope| {
        let mut writers = Vec::new();
        for (i, client) in clients.into_iter().enumerate() {
            let acknowledged = &acknowledged;
            writers.push(scope.spawn(move || write_until_killed(client, i * WINDOW, acknowledged)));
        }
        let start = Instant::now();
        while acknowledged.load(Ordering::Relaxed) < 30 * CLIENTS * WINDOW {
            assert!(start.elapsed() < DEADLINE, "{acknowledged:?} writes in a minute");
            thread::yield_now();
        }
        agent.kill();
        writers.into_iter().flat_map(|writer| writer.join().expect("no panic")).collect()
    });
    let found = fs::read(disk).expect("the file");
    for ((sent, told), found) in blocks.iter().zip(found.chunks(BLOCK)) {
        for stamp in found.chunks(8) {
            let stamp = u64::from_le_bytes(stamp.try_into().expect("8 bytes"));
            assert!((*told..=*sent).contains(&stamp), "{stamp} of {told} told and {sent} sent");
        }
    }
}

#[test]
fn acknowledged_writes_outlive_a_kill_with_a_thousand_writes_in_flight() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    let path = disk.to_str().expect("UTF-8");
    for io in ["--io=threads", "--io=auto"] {
        kill_in_the_middle(&[io, "file", path], &disk);
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&disk);
        match direct {
            Ok(_) => kill_in_the_middle(&[io, "file", path, "cache=none"], &disk),
            Err(error) => println!("NOT TRIED past the page cache, {path}: {error}"),
        }
    }
}
