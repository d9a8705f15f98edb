//! TERM with clients connected: who is negotiating is told, what was taken in is finished, and what
//! was answered is in the file.

mod common;

use std::{fs, io::Read};

use common::{Agent, OPT_GO, WRITE, request};
use nix::sys::signal::{Signal, kill};

#[test]
fn a_negotiating_client_is_told_that_the_server_shuts_down() {
    let agent = Agent::start(&["memory", "1M"]);
    let mut idle = agent.open();
    let mut client = agent.connect();
    client.greet();
    kill(agent.pid(), Signal::SIGTERM).expect("a running agent");
    // The idle client's end says that the agent has seen the signal.
    assert!(idle.recv_to_end().is_empty());
    client.option(OPT_GO, &[0; 6]);
    assert_eq!(client.option_reply().0, (1 << 31) | 7, "NBD_REP_ERR_SHUTDOWN");
    assert!(client.recv_to_end().is_empty());
    assert!(agent.terminated().0.success());
}

#[test]
fn what_was_answered_before_the_end_is_in_the_file() {
    const BLOCK: usize = 64 << 10;
    const BLOCKS: u32 = 256;
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    fs::write(&disk, vec![0; BLOCK * BLOCKS as usize]).expect("a file");
    let agent = Agent::start(&["file", disk.to_str().expect("UTF-8")]);
    let mut client = agent.open();
    let mut sender = client.stream.try_clone().expect("a second handle");
    let writer = std::thread::spawn(move || {
        for i in 0..BLOCKS {
            let at = u64::from(i) * BLOCK as u64;
            let header = request(WRITE, i.into(), at, u32::try_from(BLOCK).expect("fits"));
            let bytes = [&header[..], &[0xa5; BLOCK]].concat();
            // The agent stops reading when it ends.
            if std::io::Write::write_all(&mut sender, &bytes).is_err() {
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
            kill(agent.pid(), Signal::SIGTERM).expect("a running agent");
        }
    }
    writer.join().expect("the writer");
    let (status, log) = agent.terminated();
    assert!(status.success());
    assert!(log.contains("end=shut down"), "it was cut off, or never saw the signal: {log}");
    assert!(answered.len() >= 20);
    let bytes = fs::read(&disk).expect("the file");
    for (i, block) in bytes.chunks(BLOCK).enumerate() {
        if answered.contains(&(i as u64)) {
            assert!(block == [0xa5; BLOCK], "block {i} was answered and is not there");
        }
        // A write that was not answered may be there or not, but not in part: it was whole.
        assert!(block.iter().all(|byte| *byte == block[0]), "block {i} is torn");
    }
}
