//! Malicious and faulty clients: each loses its own connection, and no other client notices.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    time::{Duration, Instant},
};

use support::{
    DEADLINE,
    agent::Agent,
    process, until,
    wire::{DISC, FLUSH, OPT_GO, READ, TRIM, WRITE, request},
};

/// The agent, built by cargo for these tests.
const BINARY: &str = env!("CARGO_BIN_EXE_agent");

/// Pseudorandom bytes that are the same in each run.
fn noise(mut seed: u64) -> impl Iterator<Item = u8> {
    std::iter::repeat_with(move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_be_bytes()[3]
    })
}

#[test]
fn garbage_ends_only_the_connection_that_it_came_on() {
    let mut agent = Agent::serve(BINARY, &["memory", "1M"]);
    let mut good = agent.open();
    for seed in 1..100 {
        let bytes: Vec<u8> = noise(seed).take(5000).collect();
        let mut client = if seed % 2 == 0 { agent.open() } else { agent.connect() };
        // The agent may close before all of it is sent.
        client.stream.write_all(&bytes).ok();
        client.stream.shutdown(Shutdown::Write).ok();
        let mut rest = Vec::new();
        client.stream.read_to_end(&mut rest).ok();
    }
    assert_eq!(good.read_at(0, 4096), [0; 4096]);
    agent.assert_alive();
}

#[test]
fn a_client_may_close_at_any_byte_of_a_session() {
    let mut agent = Agent::serve(BINARY, &["memory", "1M"]);
    let mut good = agent.open();
    let session = [
        &3u32.to_be_bytes()[..],
        b"IHAVEOPT",
        &3u32.to_be_bytes(),
        &0u32.to_be_bytes(),
        b"IHAVEOPT",
        &OPT_GO.to_be_bytes(),
        &6u32.to_be_bytes(),
        &[0; 6],
        &request(WRITE, 1, 0, 100),
        &[9; 100],
        &request(READ, 2, 0, 100),
        &request(WRITE, 3, 0, 40_000),
        &[9; 40_000],
        &request(TRIM, 4, 0, 4096),
        &request(FLUSH, 5, 0, 0),
        &request(DISC, 6, 0, 0),
    ]
    .concat();
    let early = 0..session.len().min(400);
    let late = session.len().saturating_sub(90)..=session.len();
    let inside = (400..session.len()).step_by(1999);
    for cut in early.chain(inside).chain(late) {
        let mut client = agent.connect();
        client.send(&session[..cut]);
        if cut % 2 == 0 {
            // Half closed: requests are still answered, then the agent closes too.
            client.stream.shutdown(Shutdown::Write).expect("a connection");
            client.recv_to_end();
        }
    }
    good.write_at(0, &[1; 512]);
    assert_eq!(good.read_at(0, 512), [1; 512]);
    agent.assert_alive();
}

#[test]
fn announced_gigabytes_cost_nothing() {
    let mut agent = Agent::serve(BINARY, &["memory", "8G"]);
    agent.assert_alive();
    let before = agent.status("VmRSS");
    let mut clients = Vec::new();
    for _ in 0..20 {
        // An option of 4 GiB: the agent closes.
        let mut client = agent.connect();
        client.greet();
        client.send(&[b"IHAVEOPT", &OPT_GO.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat());
        client.recv_to_end();
        // A name of 4 GiB in a short option: refused, and the connection continues.
        let mut client = agent.connect();
        client.greet();
        client.option(OPT_GO, &[&u32::MAX.to_be_bytes()[..], &[0; 2]].concat());
        assert!(client.option_reply().0 & (1 << 31) != 0);
        client.option(2, &[]);
        assert_eq!(client.option_reply().0, 1, "ABORT is acknowledged");
        // An option over the limit: its data is skipped, and the connection continues.
        let mut client = agent.connect();
        client.greet();
        client.option(OPT_GO, &vec![0xff; 900 << 10]);
        assert_eq!(client.option_reply().0, (1 << 31) | 9, "TOO_BIG");
        client.option(OPT_GO, &[0; 6]);
        assert_eq!(client.option_reply().0, 3);
        // A write of 4 GiB and one of 64 MiB, each with a part of its payload.
        for len in [u32::MAX, 64 << 20] {
            let mut client = agent.open();
            client.request(WRITE, 1, 0, len);
            client.send(&[1; 5000]);
            clients.push(client);
        }
    }
    agent.assert_alive();
    let grown = agent.status("VmRSS").saturating_sub(before);
    assert!(grown < 80 << 10, "{grown} KiB for 40 writes that were only announced");
}

#[test]
fn the_payload_of_a_refused_write_is_drained() {
    let agent = Agent::serve(BINARY, &["memory", "1M"]);
    let mut client = agent.open();
    for (offset, len) in [(1 << 20, 512), ((1 << 20) - 1, 100_000), (0, (64 << 20) + 1)] {
        client.request(WRITE, 9, offset, len);
        client.send(&vec![0x25; len as usize]);
        let (error, cookie) = client.reply();
        assert!(matches!(error, 22 | 28), "error {error}");
        assert_eq!(cookie, 9);
    }
    assert_eq!(client.read_at(0, 512), [0; 512]);
    client.disconnect();
}

#[test]
fn a_byte_per_second_is_dropped_at_the_deadline_and_delays_no_client() {
    let mut agent = Agent::serve(BINARY, &["--timeout", "1", "memory", "1M"]);
    let mut slow = agent.connect();
    let start = Instant::now();
    let mut greeting = [0; 18];
    slow.stream.read_exact(&mut greeting).expect("a greeting");
    slow.stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let session = [&3u32.to_be_bytes()[..], b"IHAVEOPT", &[0; 8]].concat();
    let mut bytes = session.iter().cycle();
    loop {
        agent.open().disconnect();
        if slow.stream.write_all(&[*bytes.next().expect("for ever")]).is_err() {
            break;
        }
        match slow.stream.read(&mut [0; 64]) {
            Ok(0) => break,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            _ => assert!(start.elapsed() < DEADLINE, "never dropped"),
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(900), "dropped too early");
    agent.assert_alive();
}

#[test]
fn a_client_that_never_reads_holds_a_bounded_amount() {
    let mut agent = Agent::serve(BINARY, &["memory", "256M"]);
    // Data, not holes, so that a reply holds memory.
    let mut writer = agent.open();
    for i in 0..64 {
        writer.write_at(i << 22, &vec![7; 4 << 20]);
    }
    let before = agent.status("VmRSS");
    let mut deaf = agent.open();
    deaf.stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let reads: Vec<u8> = (0..1000).flat_map(|i| request(READ, i, 0, 1 << 20)).collect();
    let mut asked = 0;
    for _ in 0..1000 {
        match deaf.stream.write(&reads) {
            Ok(n) => asked += n / 28,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    assert!(asked < 100_000, "the agent takes in request after request: {asked}");
    // The lent pages are overwritten, so that the agent holds the old and the new ones.
    writer.write_at(0, &vec![8; 32 << 20]);
    let grown = agent.status("VmRSS").saturating_sub(before);
    assert!(grown < 100 << 10, "{grown} KiB held for a client that never reads");
    assert_eq!(writer.read_at(0, 4096), [8; 4096]);
    drop(deaf);
    agent.assert_alive();
}

#[test]
fn writes_are_taken_in_while_replies_wait() {
    // A client that sends everything first and reads the replies afterwards.
    let agent = Agent::serve(BINARY, &["memory", "64M"]);
    let mut client = agent.open();
    for i in 0..10 {
        client.request(READ, i, 0, 1 << 20);
        client.request(WRITE, 100 + i, 32 << 20, 1 << 20);
        client.send(&vec![3; 1 << 20]);
    }
    for i in 0..10 {
        assert_eq!(client.reply(), (0, i));
        assert_eq!(client.recv_len(1 << 20), vec![0; 1 << 20]);
        assert_eq!(client.reply(), (0, 100 + i));
    }
    client.disconnect();
}

#[test]
fn a_thousand_connections_are_served_and_leave_nothing() {
    let mut agent = Agent::serve(BINARY, &["memory", "1M"]);
    let descriptors = |agent: &Agent| process::count(agent.id(), "fd");
    agent.assert_alive();
    let before = descriptors(&agent);
    let mut clients: Vec<_> = (0..1000).map(|_| agent.open()).collect();
    for client in &mut clients {
        assert_eq!(client.read_at(4096, 512), [0; 512]);
    }
    agent.assert_alive();
    for client in clients {
        client.disconnect();
    }
    until("no descriptors are left", || descriptors(&agent) <= before);
    agent.assert_alive();
}

#[test]
fn disc_finishes_what_is_outstanding() {
    let agent = Agent::serve(BINARY, &["memory", "1M"]);
    let mut client = agent.open();
    let mut bytes: Vec<u8> = (0..20).flat_map(|i| request(READ, i, 0, 4096)).collect();
    bytes.extend(request(DISC, 20, 0, 0));
    client.send(&bytes);
    assert_eq!(client.recv_to_end().len(), 20 * (16 + 4096));
}

#[test]
fn lists_that_nobody_reads_are_charged() {
    const CLIENTS: usize = 100;
    let images = tempfile::tempdir().expect("a directory");
    for i in 0..5000 {
        std::fs::File::create(images.path().join(format!("{i:0>200}"))).expect("a file");
    }
    let dir = format!("dir={}", images.path().display());
    let agent = Agent::serve(BINARY, &["--memory-per-tenant=34M", "--timeout=3s", "file", &dir]);
    let before = agent.status("VmHWM");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| agent.connect()).collect();
    for client in &mut clients {
        client.greet();
        client.option(3, &[]);
    }
    // Each client receives its list, or waits for it until its time is over.
    for client in &mut clients {
        client.recv_to_end();
    }
    let grown = agent.status("VmHWM") - before;
    // 100 lists take 200 MiB.
    assert!(grown < 80 << 10, "{grown} KiB");
}
