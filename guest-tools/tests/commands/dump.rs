//! `dump` beside nbddump, which prints in colours unless told otherwise.

use support::server::{SIZE, Server, Transport::Unix};

use crate::{TOOL, json, libnbd, servers};

fn as_nbddump(server: &Server) {
    let ours = server.does("dump", &[]);
    let theirs = libnbd("nbddump", &["--no-color", &server.uri]).stdout;
    assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
}

#[test]
fn rows_are_those_of_nbddump() {
    for server in servers() {
        as_nbddump(&server);
        for (at, length) in [("5", "3"), ("64k", "1000"), ("15M", "1M")] {
            server.does("write", &["--pattern", "--offset", at, "--length", length]);
        }
        as_nbddump(&server);
    }
    for command in [
        "nbdkit -f memory 0",
        "nbdkit -f pattern 1000",
        "nbdkit -f --no-sr memory 100k",
        "nbdkit -f data size=8M '1*33 @1048576 1*4096 @8388607 2'",
    ] {
        println!("{command}");
        as_nbddump(&Server::activated(TOOL, command, Unix));
    }
}

#[test]
fn a_hole_costs_nothing() {
    let server =
        Server::activated(TOOL, "nbdkit -f data size=6E '@5764607523034230784 \"hello\"'", Unix);
    // All of it would be some billions of extents.
    let words = ["--offset", "5764607523034230784", "--length", "1T"];
    let text = String::from_utf8(server.does("dump", &words)).expect("UTF-8");
    let rows: Vec<_> = text.lines().collect();
    assert_eq!(rows.len(), 4, "{text}");
    assert!(rows[0].ends_with("|hello...........|"), "{text}");
}

#[test]
fn a_range_need_not_be_in_blocks() {
    let command = "nbdkit -f --filter=blocksize-policy pattern 1M blocksize-minimum=512 \
                   blocksize-error-policy=error";
    let server = Server::activated(TOOL, command, Unix);
    let text = server.does("dump", &["--offset", "508", "--length", "9"]);
    let row = "00000001fc: 00 00 01 f8 00 00 00 00  00                      |.........       |\n";
    assert_eq!(String::from_utf8_lossy(&text), row);
    assert!(server.does("dump", &["--length", "0"]).is_empty());
}

#[test]
fn json_is_an_object_a_row() {
    let server = Server::agent(TOOL, Unix);
    server.does("write", &["--pattern", "--offset", "64", "--length", "8"]);
    let text = String::from_utf8(server.does("dump", &["--json"])).expect("UTF-8");
    let rows: Vec<_> = text.lines().map(|row| json(row.as_bytes())).collect();
    assert_eq!(rows.len(), 6, "{text}");
    assert_eq!((&rows[0]["offset"], &rows[1]["repeats"]), (&0.into(), &3.into()));
    assert_eq!(rows[2]["hex"], "00000000000000400000000000000000");
    assert_eq!(rows[2]["text"], ".......@........");
    let repeats = rows[4]["repeats"].as_u64().expect("a number");
    assert_eq!(96 + 16 * repeats, SIZE - 16);
}
