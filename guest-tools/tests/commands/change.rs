//! `zero`, `trim`, `cache`, `write` and `read`: what they do to the disk, what they ask of the
//! server, and what they say.

use support::server::{Server, Transport::Unix};

use crate::{TOOL, json, servers};

#[test]
fn zeroes_and_trims_lie_where_they_were_asked_for() {
    for server in servers() {
        server.does("write", &["--pattern", "--length", "4M"]);
        let before = server.holds(0, 4 << 20);
        let told = json(&server.does(
            "zero",
            &["--offset", "1000", "--length", "70000", "--no-hole", "--fua", "--json"],
        ));
        assert_eq!((&told["offset"], &told["length"]), (&1000.into(), &70000.into()));
        assert_eq!((&told["method"], &told["requests"]), (&"zero".into(), &1.into()));
        assert_eq!((&told["fua"], &told["flushed"]), (&true.into(), &true.into()));
        let now = server.holds(0, 4 << 20);
        assert!(now[..1000] == before[..1000] && now[71000..] == before[71000..]);
        assert!(now[1000..71000].iter().all(|&byte| byte == 0), "{}", server.uri);

        let told = json(&server.does("trim", &["--offset", "1M", "--length", "64k", "--json"]));
        assert_eq!(told["length"], 65536);
        // What is trimmed may keep what it held; the rest must.
        let now = server.holds(0, 4 << 20);
        assert!(now[71000..1 << 20] == before[71000..1 << 20]);
        assert!(now[(1 << 20) + 65536..] == before[(1 << 20) + 65536..]);

        server.does("zero", &["--all", "--no-flush"]);
        assert!(server.holds(0, 4 << 20).iter().all(|&byte| byte == 0));
    }
}

#[test]
fn all_of_a_disk_must_be_said() {
    let server = Server::nbdkit(TOOL, Unix);
    for verb in ["zero", "trim"] {
        assert!(server.fails(verb, &[]).contains("--length <SIZE>"));
        assert!(server.fails(verb, &["--all", "--length", "1"]).contains("cannot be used with"));
        let why = server.fails(verb, &["--offset", "16M", "--length", "1"]);
        assert!(why.contains("1 bytes at 16777216 are beyond the end"), "{why}");
    }
}

fn logged(plugin: &str, verb: &str, words: &[&str]) -> String {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let path = log.path().to_str().expect("UTF-8");
    let server =
        Server::activated(TOOL, &format!("nbdkit -f --filter=log {plugin} logfile={path}"), Unix);
    server.does(verb, words);
    drop(server);
    std::fs::read_to_string(path).expect("the log")
}

#[test]
fn flags_reach_the_server() {
    for (verb, words, says) in [
        (
            "zero",
            &["--all"][..],
            &["Zero id=1 offset=0x0 count=0x100000 trim=1 fua=0 fast=0", "Flush"][..],
        ),
        ("zero", &["--all", "--no-hole", "--fua", "--no-flush"], &["trim=0 fua=1 fast=0"]),
        ("zero", &["--all", "--fast"], &["trim=1 fua=0 fast=1", "Flush"]),
        ("trim", &["--all", "--fua"], &["Trim id=1 offset=0x0 count=0x100000 fua=1", "Flush"]),
        ("cache", &["--offset", "4k"], &["Cache id=1 offset=0x1000 count=0xff000"]),
    ] {
        let log = logged("memory 1M", verb, words);
        for part in says {
            assert!(log.contains(part), "{verb} {words:?}: {log}");
        }
        assert_eq!(log.contains("Flush"), says.contains(&"Flush"), "{verb} {words:?}: {log}");
    }
}

#[test]
fn long_ranges_are_cut_and_grow_while_that_is_quick() {
    let log = logged("null 10G", "zero", &["--all"]);
    let zeroes = log.lines().filter(|line| line.contains(" Zero id=")).count();
    assert!((3..=9).contains(&zeroes), "{log}");
}

#[test]
fn a_server_that_cannot_zero_gets_zeroes() {
    let command = "nbdkit -f --filter=nozero memory 3M zeromode=none";
    let server = Server::activated(TOOL, command, Unix);
    server.does("write", &["--pattern", "--length", "3M"]);
    let told = json(&server.does("zero", &["--offset", "1M", "--length", "1025k", "--json"]));
    assert_eq!((&told["method"], &told["requests"]), (&"write".into(), &2.into()));
    let bytes = server.does("read", &["--offset", "1M", "--length", "1025k"]);
    assert!(bytes.iter().all(|&byte| byte == 0));
    server.does("read", &["--verify-pattern", "--length", "1M"]);
    let why = server.fails("zero", &["--all", "--fast"]);
    assert!(why.contains("does not offer"), "{why}");
    let server = Server::activated(TOOL, "nbdkit -f -r memory 1M", Unix);
    for verb in ["zero", "trim"] {
        assert!(server.fails(verb, &["--all"]).contains("read-only"));
    }
}

#[test]
fn read_and_write_tell_programs_what_they_did() {
    let server = Server::agent(TOOL, Unix);
    let words = ["--pattern", "--offset", "8", "--length", "100k", "--json"];
    let told = json(&server.does("write", &words));
    assert_eq!((&told["offset"], &told["length"]), (&8.into(), &102_400.into()));
    assert_eq!((&told["fua"], &told["flushed"]), (&false.into(), &true.into()));
    let out = server.dir.path().join("out");
    let words = ["--length", "5k", "--json", "--output", out.to_str().expect("UTF-8")];
    let told = json(&server.does("read", &words));
    assert_eq!((&told["offset"], &told["length"]), (&0.into(), &5120.into()));
    assert_eq!(std::fs::read(out).expect("the output"), server.holds(0, 5120));
    let words = ["--offset", "8", "--length", "100k", "--verify-pattern", "--json"];
    assert_eq!(json(&server.does("read", &words))["verified"], true);
    // The bytes have standard output for themselves.
    let why = server.fails("read", &["--json"]);
    assert!(why.contains("--output") && why.contains("--verify-pattern"), "{why}");
}
