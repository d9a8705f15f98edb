//! How many clients may connect at once: `--limit`, `--limit-per-cid` and `--filter=limit`, tested
//! from outside.

use std::{
    io::{BufRead, Read},
    net::TcpStream,
    process::Command,
};

use support::{
    agent::Agent,
    client::{greeted, opened, receive_greeting},
    wire::request,
};

use crate::{BINARY, access::knock};

#[test]
fn a_handshake_that_never_ends_counts_and_is_dropped() {
    let agent = Agent::start(BINARY, "-U {}/s --limit 2 --timeout 500ms null 1M");
    let mut silent = greeted(&agent.path("s"));
    let mut client = greeted(&agent.path("s"));
    assert_eq!(opened(&mut client), 1 << 20);
    assert!(!knock(&agent), "two are in");
    let lines = agent.wait_for_line("refused");
    assert!(lines.last().unwrap().contains("rule=--limit 2, and 2 open"), "{lines:#?}");
    // Only at the deadline, and then its place is free.
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    agent.wait_for_line("did not finish negotiating in time");
    let again = greeted(&agent.path("s"));
    assert!(!knock(&agent), "two are in again");
    drop((client, again));
}

#[test]
fn a_place_is_given_back_whatever_way_a_session_ends() {
    let agent = Agent::start(BINARY, "-U {}/s --filter=limit null 1M");
    type End = fn(&mut std::os::unix::net::UnixStream);
    let ends: [(&str, End); 5] = [
        ("closed the connection", |_| {}),
        ("closed in the middle", |stream| send(stream, b"\0\0\0\x03IHAVE")),
        ("broke the protocol", |stream| send(stream, &[0xff; 64])),
        ("aborted", |stream| send(stream, b"\0\0\0\x03IHAVEOPT\0\0\0\x02\0\0\0\0")),
        ("disconnected", |stream| {
            opened(stream);
            send(stream, &request(2, 7, 0, 0));
        }),
    ];
    for (said, end) in ends {
        let mut stream = greeted(&agent.path("s"));
        assert!(!knock(&agent), "the default of the filter is one");
        end(&mut stream);
        drop(stream);
        agent.wait_for_line(said);
    }
    drop(greeted(&agent.path("s")));
}

fn send(mut stream: &std::os::unix::net::UnixStream, bytes: &[u8]) {
    std::io::Write::write_all(&mut stream, bytes).unwrap();
}

#[test]
fn a_client_that_disconnects_in_order_finds_the_place_free() {
    let agent = Agent::start(BINARY, "-U {}/s --limit 1 null 1M");
    let abort = b"\0\0\0\x03IHAVEOPT\0\0\0\x02\0\0\0\0";
    for _ in 0..200 {
        let mut stream = greeted(&agent.path("s"));
        opened(&mut stream);
        send(&stream, &request(2, 7, 0, 0));
        // The agent closes. From now on there is room.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        let mut stream = greeted(&agent.path("s"));
        send(&stream, abort);
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn a_tenant_has_places_of_its_own() {
    let mut agent = Agent::start(
        BINARY,
        "--print-uri -U {}/s --listen tcp:127.0.0.1:0 --limit-per-tenant 2 null 1M",
    );
    let uri = agent.stdout().lines().nth(1).unwrap().unwrap();
    let port: u16 = uri.rsplit_once(':').unwrap().1.parse().unwrap();
    let first = greeted(&agent.path("s"));
    let _second = greeted(&agent.path("s"));
    assert!(!knock(&agent), "the user of this test has two");
    let lines = agent.wait_for_line("refused");
    assert!(lines.last().unwrap().contains("rule=--limit-per-tenant 2, and 2 open"), "{lines:#?}");
    let mut other = TcpStream::connect(("127.0.0.1", port)).unwrap();
    receive_greeting(&mut other);
    drop(first);
    agent.wait_for_line("closed the connection");
    assert!(knock(&agent), "there is room again");
    agent.end();
}

#[test]
fn where_descriptors_are_few_one_tenant_leaves_some_to_others() {
    // This also lowers the hard limit, which the agent cannot raise again.
    let mut limited = Command::new("sh");
    limited.args(["-c", r#"ulimit -n 256; exec "$@""#, "sh", BINARY]);
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let words =
        format!("--print-uri -U {{}}/s --listen tcp:127.0.0.1:0 file {}", disk.path().display());
    let mut agent = Agent::start_by(limited, &words);
    let uri = agent.stdout().lines().nth(1).unwrap().unwrap();
    let port: u16 = uri.rsplit_once(':').unwrap().1.parse().unwrap();
    // As many connections as it can have, each with its disk open.
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut greeting = [0; 18];
        if stream.read_exact(&mut greeting).is_err() {
            break;
        }
        opened(&mut stream);
        crowd.push(stream);
    }
    assert!((10..100).contains(&crowd.len()), "{} connections", crowd.len());
    let lines = agent.wait_for_line("refused");
    let open = format!("one tenant has as many as it leaves free: {} open", crowd.len());
    assert!(lines.last().unwrap().contains(&open), "{lines:#?}");
    // Another tenant is served, on several connections.
    let mut others: Vec<_> = (0..5).map(|_| greeted(&agent.path("s"))).collect();
    assert!(others.iter_mut().all(|stream| opened(stream) == 1 << 20));
    let lines = agent.end();
    assert!(!lines.iter().any(|line| line.contains("Too many open files")), "{lines:#?}");
}

#[test]
fn other_ways_than_vsock_have_no_limit_per_cid() {
    let agent =
        Agent::start(BINARY, "-U {}/s --limit-per-cid 1 --filter=limit null 1M limit-per-cid=1");
    let first = greeted(&agent.path("s"));
    let second = greeted(&agent.path("s"));
    drop((first, second));
}

#[test]
fn the_filter_says_what_nbdkits_says() {
    // A client that has opened the disk, and a second one.
    let script = r"
import nbd, sys
one, two = nbd.NBD(), nbd.NBD()
one.connect_unix(sys.argv[1])
try:
    two.connect_unix(sys.argv[1])
    print(2)
except nbd.Error:
    print(1)
";
    let python = |socket: &str| {
        let output = Command::new("/usr/bin/python3")
            .args(["-c", script, socket])
            .output()
            .expect("python3-libnbd is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for (words, count) in [("", "1"), ("limit=1", "1"), ("limit=2", "2"), ("limit=0", "2")] {
        let agent = Agent::start(BINARY, &format!("-U {{}}/s --filter=limit null 1M {words}"));
        assert_eq!(python(agent.path("s").to_str().unwrap()), count, "agent {words}");
        let run = format!("/usr/bin/python3 -c '{script}' $unixsocket");
        let output = Command::new("nbdkit")
            .args(["-U", "-", "--filter=limit", "null", "1M"])
            .args(words.split_whitespace())
            .args(["--run", &run])
            .output()
            .expect("nbdkit is installed");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), count, "nbdkit {words}");
    }
}
