//! What is said wrong, and what is shown.

use std::fs;

use support::server::{Server, Transport::Unix};

use crate::{TOOL, copies, copy, fails, sparse, text, told, under_nbdkit};

#[test]
fn what_is_wrong_is_told_in_one_line_and_changes_nothing() {
    let server = Server::agent(TOOL, Unix);
    let dir = server.dir.path();
    let (file, to) = (dir.join("file"), dir.join("to"));
    sparse(&file, 1000, &[(0, 1000)]);
    let (from, to_text, uri) = (text(&file), text(&to), &*server.uri);
    for (words, says) in [
        (&[from][..], "DST"),
        (&["/nonexistent", to_text], "cannot open /nonexistent: No such file"),
        (&["nbd+unix:///?socket=/nonexistent", to_text], "no such socket"),
        (&["nbd:old", to_text], "./NAME"),
        (&["", to_text], "it is empty"),
        (&["null:", to_text], "null: is no source"),
        (&[text(dir), to_text], "is a directory"),
        (&[from, uri, "--connections", "0"], "1 to 1024"),
        (&[from, uri, "--requests", "x"], "1 to 1024"),
        (&[from, uri, "--request-size", "64M"], "512 to 32M"),
        (&[from, uri, "--sparse", "1000"], "power of two"),
        (&[from, uri, "--progress=dots"], "auto, bar, lines, none"),
        (&[from, uri, "--progress=99"], "descriptor 99 of --progress"),
        (&[from, uri, "--flush", "--no-flush"], "cannot be used with"),
        (&[from, uri, "--allocated", "--destination-is-zero"], "cannot be used with"),
        (&[from, uri, "-q", "--progress=bar"], "cannot be used with"),
        (&[from, "-", "--json"], "--json is printed where the bytes are to go"),
        (&["-", uri, "--verify"], "can be read once"),
        (&[from, "-", "--verify"], "can be read once"),
        (&[from, "null:", "--verify"], "can be read once"),
    ] {
        let why = fails(words);
        assert!(why.contains(says), "{words:?}: {why}");
        assert!(!to.exists(), "{words:?}");
    }
    assert!(fails(&[from, text(dir)]).contains("cannot open"));
    assert!(fs::read(&server.disk).expect("the disk").iter().all(|&byte| byte == 0));
    under_nbdkit(
        &["--readonly"],
        &["memory", "1M"],
        r#"echo x > from
           ! "$tool" copy from "$uri" 2> why
           grep 'read-only: the server takes no writes' why"#,
    );
}

#[test]
fn people_and_programs_are_told() {
    let server = Server::agent(TOOL, Unix);
    let file = server.dir.path().join("file");
    sparse(&file, 3 << 20, &[(0, 1 << 20)]);
    let words = [text(&file), &*server.uri];
    let said = copies(&words);
    assert!(said.contains("3145728 bytes copied (1.0 MiB of data, 2.0 MiB of zeroes)"), "{said}");
    assert!(
        copies(&[&words[..], &["--verify", "--no-flush"]].concat())
            .contains(", not flushed, verified")
    );
    assert_eq!(copies(&[&words[..], &["-q"]].concat()), "");
    let said = told(&words);
    let keys = "bytes-per-second connections data destination flushed length seconds source verified zeroes";
    let found: Vec<_> = said.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, keys.split(' ').collect::<Vec<_>>());
    let said = copies(&[&words[..], &["--progress=1", "-C", "1"]].concat());
    assert!(said.contains("copied"), "{said}");
    let output = copy(&[&words[..], &["--progress=1"]].concat());
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(shown.ends_with("100/100\n"), "{shown}");
}
