//! The commands against three servers, over Unix sockets and TCP, byte for byte: what they wrote is
//! looked for in the server's file, and what they read is what is in it.

use std::{fs, os::unix::fs::FileExt};

use support::{
    random::Random,
    server::{
        SIZE, Server,
        Transport::{Tcp, Unix},
    },
};

/// The guest-tools that cargo has built for these tests.
const TOOL: &str = env!("CARGO_BIN_EXE_guest-tools");

/// The pattern, made in another way than the tool makes it.
fn pattern(at: u64, len: usize) -> Vec<u8> {
    let skip = usize::try_from(at % 8).expect("small");
    (at - at % 8..).step_by(8).flat_map(u64::to_be_bytes).skip(skip).take(len).collect()
}

fn whole_story(server: &Server) {
    let told: serde_json::Value =
        serde_json::from_slice(&server.does("info", &["--json"])).expect("JSON");
    let told = &told["exports"][0];
    assert_eq!((&told["export-size"], &told["is_read_only"]), (&SIZE.into(), &false.into()));

    // Neither the offset nor the length is a multiple of anything, and it is more than is in flight.
    let bytes = Random::new(1).bytes(9_000_001);
    let (input, output) = (server.dir.path().join("in"), server.dir.path().join("out"));
    fs::write(&input, &bytes).expect("the input");
    let (input, output) = (input.to_str().expect("UTF-8"), output.to_str().expect("UTF-8"));
    server.does("write", &["--offset", "12345", "--in", input]);
    assert!(server.holds(12345, bytes.len()) == bytes, "the server's file is not what was written");
    let range = ["--offset", "12345", "--length", "9000001"];
    assert!(server.does("read", &range) == bytes, "what is read is not what is there");
    server.does("read", &[&range[..], &["--out", output]].concat());
    assert!(fs::read(output).expect("the output") == bytes, "the output is not what is there");
    // The head and the tail are holes, the middle is not.
    let all = server.does("read", &[]);
    assert!(all == server.holds(0, all.len()) && all.len() as u64 == SIZE, "holes and data");

    server.does("write", &["--pattern", "--offset", "3", "--length", "3000005", "--fua"]);
    assert!(server.holds(3, 3_000_005) == pattern(3, 3_000_005), "the file has not the pattern");
    let range = ["--verify-pattern", "--offset", "3", "--length", "3000005"];
    assert!(server.does("read", &range).is_empty(), "a verification prints no data");
    let file = fs::File::options().write(true).open(&server.disk).expect("the disk");
    file.write_all_at(&[0xff], 2_000_000).expect("a wrong byte");
    let why = server.fails("read", &range);
    assert!(why.contains("1 of 3000005 bytes are not the pattern, the first at 2000000"), "{why}");

    let before = server.holds(0, 1 << 20);
    let why = server.fails("write", &["--pattern", "--offset", "15M", "--length", "1025k"]);
    assert!(why.contains("beyond the end of the export, 16777216 bytes"), "{why}");
    assert!(server.holds(0, 1 << 20) == before && server.holds(SIZE - 8, 8) == [0; 8], "untouched");
    let why = server.fails("read", &["--offset", "17M"]);
    assert!(why.contains("beyond the end of the export"), "{why}");
    let why = server.fails("write", &["--offset", "17M"]);
    assert!(why.contains("beyond the end of the export"), "{why}");
}

#[test]
fn nbdkit_on_a_unix_socket() {
    whole_story(&Server::nbdkit(TOOL, Unix));
}

#[test]
fn nbdkit_on_tcp() {
    whole_story(&Server::nbdkit(TOOL, Tcp));
}

#[test]
fn qemu_nbd_on_a_unix_socket() {
    whole_story(&Server::qemu_nbd(TOOL, Unix));
}

#[test]
fn qemu_nbd_on_tcp() {
    whole_story(&Server::qemu_nbd(TOOL, Tcp));
}

#[test]
fn the_agent_on_a_unix_socket() {
    whole_story(&Server::agent(TOOL, Unix));
}

#[test]
fn the_agent_on_tcp() {
    whole_story(&Server::agent(TOOL, Tcp));
}
