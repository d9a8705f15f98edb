//! The options for testing clients: libnbd negotiates the same with the agent as with nbdkit.

use std::{
    io::{Read, Write},
    os::fd::AsFd,
    process::Command,
};

use nix::sys::socket::{getsockopt, sockopt::KeepAlive};
use support::{
    agent::{Agent, NBDKIT},
    client::greeted,
    process::printed_by_client,
};

use crate::BINARY;

const CLIENT: &str = r#"/usr/bin/python3 -c '
import nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
print(h.get_size(), h.get_protocol(), h.get_structured_replies_negotiated(),
      h.can_meta_context("base:allocation"), h.pread(4, 0))
' "$uri""#;

fn negotiated(server: &str, words: &str) -> String {
    let words: Vec<_> = words.split_whitespace().chain(["memory", "1M"]).collect();
    printed_by_client(server, &words, CLIENT)
}

#[test]
fn clients_negotiate_what_they_do_with_nbdkit() {
    for words in [
        "",
        "--no-sr",
        "--mask-handshake=0",
        "--mask-handshake=1",
        "--mask-handshake=0x2",
        "--mask-handshake=3 --no-sr",
        "--newstyle",
    ] {
        assert_eq!(negotiated(BINARY, words), negotiated(NBDKIT, words), "{words}");
    }
    // nbdkit 1.32 has no such option.
    let text = negotiated(BINARY, "--no-mc");
    assert!(text.starts_with("1048576 newstyle-fixed True False"), "{text}");
    assert_eq!(negotiated(BINARY, "--no-meta-contexts"), text);
    assert_eq!(negotiated(BINARY, "--no-structured-replies"), negotiated(BINARY, "--no-sr"));
}

#[test]
fn a_client_that_insists_on_what_is_masked_is_closed_on() {
    let mut agent = Agent::start(BINARY, "--mask-handshake=2 -U {}/s memory 1M");
    let mut stream = std::os::unix::net::UnixStream::connect(agent.path("s")).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting[16..], [0, 2]);
    stream.write_all(&[0, 0, 0, 1]).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(greeted(&agent.path("s")));
    agent.end();
}

#[test]
fn the_kernel_asks_after_silent_tcp_peers() {
    for (words, kept) in [("--keepalive", true), ("", false)] {
        let mut agent =
            Agent::start(BINARY, &format!("{words} -v --print-uri -i 127.0.0.1 -p 0 null"));
        let mut uri = String::new();
        std::io::BufRead::read_line(&mut agent.stdout(), &mut uri).unwrap();
        let (_, port) = uri.trim_end().rsplit_once(':').unwrap();
        let port: u16 = port.parse().unwrap();
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        support::client::receive_greeting(&mut &stream);
        assert!(!getsockopt(&stream.as_fd(), KeepAlive).unwrap(), "ours is not theirs");
        let ours = stream.local_addr().unwrap().port();
        let output = Command::new("ss")
            .args(["-Htno", &format!("sport = {port} and dport = {ours}")])
            .output();
        let output = output.expect("ss is needed (Debian: apt-get install iproute2)");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.contains("timer:(keepalive"), kept, "{text}");
        agent.end();
    }
}
