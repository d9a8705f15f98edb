//! Clients that violate TLS, or leave during it. Other clients are never disturbed.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
};

use support::{
    agent::Agent,
    client::{ask, replies},
    wire::{OPT_GO, OPT_INFO, OPT_LIST, OPT_STARTTLS, REP_ACK, option, request},
};

use crate::client::{agent, go, handshake, plain, secured, size, uri};

/// The line of the log about the end of a session.
fn ending(agent: &Agent) -> String {
    agent.wait_for_line("session").pop().unwrap()
}

fn assert_alive(agent: &Agent) {
    assert_eq!(size(&uri(agent, "nbds", "trust")), Ok(256 << 20));
}

/// Reads to the end. A reset counts as an end.
fn end(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("not closed: {error}"),
        _ => bytes,
    }
}

#[test]
fn plain_text_behind_starttls_closes_the_connection() {
    for words in ["--tls=on memory 256M", "--tls=require memory 256M"] {
        let (agent, _ca) = agent(words);
        let mut stream = plain(&agent);
        let injected = [option(OPT_STARTTLS, b""), option(OPT_GO, &[0; 6])].concat();
        stream.write_all(&injected).unwrap();
        assert!(end(&mut stream).is_empty(), "nothing is answered");
        let line = ending(&agent);
        assert!(line.contains("in plain text behind NBD_OPT_STARTTLS"), "{line}");
        assert_alive(&agent);
    }
}

#[test]
fn options_in_one_send_are_answered_before_starttls_and_inside_tls() {
    let (agent, _ca) = agent("--tls=on memory 256M");
    let mut stream = plain(&agent);
    let all = [option(OPT_LIST, b""), option(OPT_INFO, &[0; 6]), option(OPT_STARTTLS, b"")];
    stream.write_all(&all.concat()).unwrap();
    for option in [OPT_LIST, OPT_INFO, OPT_STARTTLS] {
        assert_eq!(replies(&mut stream, option).last(), Some(&REP_ACK), "{option}");
    }
    let mut secure = handshake(&agent, stream);
    let all = [option(OPT_LIST, b""), option(OPT_INFO, &[0; 6]), option(OPT_GO, &[0; 6])];
    secure.write_all(&all.concat()).unwrap();
    for option in [OPT_LIST, OPT_INFO, OPT_GO] {
        assert_eq!(replies(&mut secure, option).last(), Some(&REP_ACK), "{option}");
    }

    // An answer before STARTTLS does not hide the bytes after STARTTLS.
    let mut stream = plain(&agent);
    let injected = [option(OPT_LIST, b""), option(OPT_STARTTLS, b""), option(OPT_LIST, b"")];
    stream.write_all(&injected.concat()).unwrap();
    let said = end(&mut stream);
    assert!(!said.windows(4).any(|code| code == OPT_STARTTLS.to_be_bytes()), "{said:?}");
    agent.wait_for_line("in plain text behind NBD_OPT_STARTTLS");
    assert_alive(&agent);
}

#[test]
fn plain_text_instead_of_the_handshake_ends_the_session() {
    let (agent, _ca) = agent("--tls=on memory 256M");
    for bytes in [&option(OPT_GO, &[0; 6])[..], &[0; 70_000], b"GET / HTTP/1.0\r\n\r\n"] {
        let mut stream = plain(&agent);
        assert_eq!(ask(&mut stream, OPT_STARTTLS, b""), [REP_ACK]);
        // The agent may close before it has received everything.
        stream.write_all(bytes).ok();
        let said = end(&mut stream);
        assert!(said.is_empty() || said[0] == 21, "an alert, or nothing: {said:?}");
        let line = ending(&agent);
        assert!(line.contains("TLS failed"), "{line}");
    }
    assert_alive(&agent);
}

#[test]
fn a_client_that_leaves_in_the_handshake_is_named_so() {
    let (agent, _ca) = agent("--tls=on memory 256M");
    let mut stream = plain(&agent);
    assert_eq!(ask(&mut stream, OPT_STARTTLS, b""), [REP_ACK]);
    stream.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    drop(stream);
    let line = ending(&agent);
    assert!(line.contains("closed in the middle of the handshake"), "{line}");
}

#[test]
fn the_handshake_counts_in_the_timeout() {
    let (agent, _ca) = agent("--tls=on --timeout 500ms memory 256M");
    let mut stream = plain(&agent);
    assert_eq!(ask(&mut stream, OPT_STARTTLS, b""), [REP_ACK]);
    assert!(end(&mut stream).is_empty());
    let line = ending(&agent);
    assert!(line.contains("did not finish negotiating in time"), "{line}");
}

#[test]
fn a_client_in_the_handshake_does_not_hold_the_agent_up() {
    let (mut agent, _ca) = agent("--tls=on --timeout 60 --shutdown-timeout 60 memory 256M");
    let mut stream = plain(&agent);
    assert_eq!(ask(&mut stream, OPT_STARTTLS, b""), [REP_ACK]);
    let lines = agent.end();
    assert!(lines.iter().any(|line| line.contains("shut down")), "{lines:?}");
}

#[test]
fn bytes_that_are_no_record_end_the_session_with_a_reason() {
    let (agent, _ca) = agent("--tls=require memory 256M");
    let mut secure = secured(&agent);
    go(&mut secure);
    let mut stream = secure.sock;
    // An unencrypted record of 32 bytes.
    stream.write_all(&[&[0x17, 3, 3, 0, 32][..], &[7; 32]].concat()).unwrap();
    end(&mut stream);
    let line = ending(&agent);
    assert!(line.contains("TLS failed: cannot decrypt peer's message"), "{line}");
    assert_alive(&agent);
}

#[test]
fn plain_requests_after_the_handshake_end_the_session() {
    let (agent, _ca) = agent("--tls=require memory 256M");
    let mut secure = secured(&agent);
    go(&mut secure);
    let mut stream = secure.sock;
    stream.write_all(&request(0, 7, 0, 4096)).unwrap();
    end(&mut stream);
    let line = ending(&agent);
    assert!(line.contains("TLS failed") && line.contains("requests=0"), "{line}");
}

#[test]
fn a_goodbye_and_a_cut_both_end_the_session() {
    let (agent, _ca) = agent("--tls=require memory 256M");
    let mut secure = secured(&agent);
    go(&mut secure);
    secure.conn.send_close_notify();
    secure.flush().unwrap();
    // The agent sends close_notify too: without it rustls reports an error.
    assert_eq!(secure.read(&mut [0]).unwrap(), 0);
    assert!(ending(&agent).contains("closed the connection"));

    let mut secure = secured(&agent);
    go(&mut secure);
    drop(secure);
    agent.wait_for_line("without TLS's close_notify");
    assert!(ending(&agent).contains("closed the connection"));

    let mut secure = secured(&agent);
    go(&mut secure);
    secure.write_all(&request(2, 7, 0, 0)).unwrap();
    assert_eq!(secure.read(&mut [0]).unwrap(), 0, "a goodbye after NBD_CMD_DISC");
    assert!(ending(&agent).contains("disconnected"));
}

#[test]
fn requests_that_come_with_the_last_of_the_handshake_are_answered() {
    let (agent, _ca) = agent("--tls=require memory 256M");
    let mut stream = plain(&agent);
    assert_eq!(ask(&mut stream, OPT_STARTTLS, b""), [REP_ACK]);
    let mut secure = handshake(&agent, stream);
    // rustls sends the written bytes together with its Finished.
    let all = [option(OPT_GO, &[0; 6]), request(0, 7, 0, 100_000), request(2, 7, 0, 0)].concat();
    secure.write_all(&all).unwrap();
    let mut answers = Vec::new();
    secure.read_to_end(&mut answers).unwrap();
    assert!(answers.len() > 100_000, "{}", answers.len());
    assert!(ending(&agent).contains("disconnected"));
}

#[test]
fn a_client_that_never_reads_holds_a_bounded_amount() {
    let (agent, _ca) = agent("--tls=require memory 256M");
    let mut secure = secured(&agent);
    go(&mut secure);
    // Data, not holes, so that a reply holds memory.
    let len = 32 << 20;
    secure.write_all(&request(1, 7, 0, len)).unwrap();
    secure.write_all(&vec![7; len as usize]).unwrap();
    secure.read_exact(&mut [0; 16]).unwrap();
    let memory = |key: &str| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = memory("VmRSS");
    // The agent stops reading requests, so the socket fills and a send would block.
    secure.sock.set_nonblocking(true).unwrap();
    let requests = request(0, 7, 0, 1 << 20).repeat(100);
    let mut sent = 0;
    while sent < 50_000 {
        match secure.write(&requests).and_then(|_| secure.flush()) {
            Ok(()) => sent += 100,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    let grown = memory("VmHWM").saturating_sub(before) / 1024;
    assert!(grown < 100, "{grown} MiB after {sent} requests of 1 MiB");
    drop(secure);
    ending(&agent);
    assert_alive(&agent);
}
