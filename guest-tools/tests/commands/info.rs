//! `info` and `list` beside nbdinfo.

use serde_json::Value;
use support::server::{Server, Transport::Unix};

use crate::{TOOL, json, libnbd, servers};

/// What nbdinfo 1.14 does not know; the URI, which it spells in its own way; and what it reads from
/// the disk.
const OURS: [&str; 3] = ["can_block_status_payload", "uri", "content"];

fn comparable(mut told: Value) -> Value {
    let all = told.as_object_mut().expect("an object");
    // libnbd 1.14 has no extended headers.
    all.remove("extended");
    for export in all["exports"].as_array_mut().expect("exports") {
        for key in OURS {
            export.as_object_mut().expect("an object").remove(key);
        }
    }
    told
}

fn lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8(text.to_vec()).expect("UTF-8");
    let ours = |line: &&str| !OURS.iter().any(|key| line.starts_with(&format!("\t{key}: ")));
    let framing = |line: &str| line.replace("using extended", "using structured");
    text.lines().filter(ours).map(framing).collect()
}

/// Both, of one server, in text and JSON.
fn as_nbdinfo(server: &Server, ours: &str, theirs: &[&str]) {
    let nbdinfo =
        |words: &[&str]| libnbd("nbdinfo", &[theirs, words, &[&server.uri]].concat()).stdout;
    assert_eq!(lines(&server.does(ours, &[])), lines(&nbdinfo(&[])), "{}", server.uri);
    let told = server.does(ours, &["--json"]);
    assert_eq!(comparable(json(&told)), comparable(json(&nbdinfo(&["--json"]))), "{}", server.uri);
}

#[test]
fn what_is_shown_is_what_nbdinfo_shows() {
    for server in servers() {
        as_nbdinfo(&server, "info", &["--no-content"]);
        as_nbdinfo(&server, "list", &["--list"]);
        let size = libnbd("nbdinfo", &["--size", &server.uri]).stdout;
        assert_eq!(server.does("info", &["--size"]), size);
        assert_eq!(server.does("info", &["--size", "--json"]), size);
    }
}

#[test]
fn servers_of_all_kinds_are_shown_as_nbdinfo_shows_them() {
    for command in [
        "nbdkit -f -r memory 513",
        "nbdkit -f --no-sr memory 1M",
        "nbdkit -f memory 0",
        "nbdkit -f --mask-handshake=0 memory 1536k",
        "nbdkit -f --filter=blocksize-policy memory 1G blocksize-minimum=512 \
         blocksize-preferred=4096 blocksize-maximum=1M",
        "nbdkit -f --filter=exportname memory 1M exportname=one exportname=two \
         exportname-list=explicit exportdesc=fixed:some%text",
        "qemu-nbd --persistent --read-only --format raw --description 'a disk' $disk",
        "qemu-nbd --persistent --allocation-depth --export-name 'a b/c' --format raw $disk",
    ] {
        println!("{command}");
        let server = Server::activated(TOOL, command, Unix);
        if command.contains("export-name") {
            let theirs = libnbd("nbdinfo", &["--list", "--json", &server.uri]).stdout;
            let ours = json(&server.does("list", &["--json"]));
            assert_eq!(comparable(ours.clone()), comparable(json(&theirs)));
            assert_eq!(ours["exports"][0]["contexts"][1], "qemu:allocation-depth");
            let uri = ours["exports"][0]["uri"].as_str().expect("a URI");
            assert!(uri.contains("/a%20b/c?"), "{uri}");
            assert_eq!(server.does("list", &["--names"]), b"a b/c\n");
        } else if command.contains("mask-handshake") {
            // It can say no more than the size and flags, and lists nothing.
            as_nbdinfo(&server, "info", &["--no-content"]);
            assert!(server.fails("list", &[]).contains("fixed newstyle"));
        } else {
            as_nbdinfo(&server, "info", &["--no-content"]);
            as_nbdinfo(&server, "list", &["--list"]);
        }
    }
}

#[test]
fn a_name_that_is_listed_and_not_opened_is_told_with_the_others() {
    let command = "nbdkit -f eval get_size='echo 1M' list_exports='echo NAMES; echo here; echo gone' \
                   open='if [ \"$3\" = gone ]; then echo no such thing >&2; exit 1; fi' \
                   2>/dev/null";
    let server = Server::activated(TOOL, command, Unix);
    let told = json(&server.does("list", &["--json"]));
    assert_eq!(told["exports"][0]["export-size"], 1 << 20);
    let gone = &told["exports"][1];
    assert_eq!(gone["export-name"], "gone");
    assert!(gone["error"].as_str().expect("a reason").contains("ERR"), "{gone}");
    assert_eq!(gone["export-size"], Value::Null);
    let text = String::from_utf8(server.does("list", &[])).expect("UTF-8");
    assert!(text.contains("export=\"gone\":\n\terror: "), "{text}");
}

#[test]
fn questions_are_answered_by_the_exit_code_as_nbdinfo_does() {
    for command in [
        "nbdkit -f -r memory 1M",
        "nbdkit -f --no-sr --filter=nozero memory 1M zeromode=none",
        "qemu-nbd --persistent --format raw $disk",
    ] {
        let server = Server::activated(TOOL, command, Unix);
        for (option, word) in [
            ("--can", "connect"),
            ("--can", "read"),
            ("--can", "write"),
            ("--can", "flush"),
            ("--can", "fua"),
            ("--can", "trim"),
            ("--can", "zero"),
            ("--can", "fast-zero"),
            ("--can", "cache"),
            ("--can", "df"),
            ("--can", "multi-conn"),
            ("--can", "Structured_Reply"),
            ("--is", "read-only"),
            ("--is", "rotational"),
            ("--is", "tls"),
        ] {
            let theirs = libnbd("nbdinfo", &[option, word, &server.uri]);
            let ours = server.tool("info", &[option, word]);
            assert_eq!(ours.status.code(), theirs.status.code(), "{command}: {option} {word}");
            assert!(ours.stdout.is_empty() && ours.stderr.is_empty(), "{ours:?}");
            let told = server.tool("info", &[option, word, "--json"]).stdout;
            assert_eq!(json(&told), theirs.status.success(), "{command}: {option} {word}");
        }
        let why = server.fails("info", &["--can", "fly"]);
        assert!(why.contains("nothing that can be asked") && why.lines().count() == 1, "{why}");
        let why = server.fails("info", &["--can", "read", "--is", "tls"]);
        assert!(why.contains("cannot be used with"), "{why}");
    }
}
