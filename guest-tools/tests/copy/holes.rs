//! Holes stay holes, zeroes become holes, and what is asked to be allocated is.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use support::server::{SIZE, Server, Transport::Unix};

use crate::{TOOL, copies, is_same, judge, sparse, text, told, under_nbdkit};

/// Bytes that it takes on the disk.
fn used(path: &Path) -> u64 {
    fs::metadata(path).expect("a file").blocks() * 512
}

/// What qemu-img says of its layout.
fn map(path: &Path) -> String {
    judge("qemu-img", &["map", "--output=json", "-f", "raw", text(path)])
}

#[test]
fn layouts_are_the_same_on_the_other_side() {
    const DATA: [(u64, u64); 3] = [(1 << 20, 1 << 16), (5 << 20, 3 << 20), (SIZE - 4096, 4096)];
    for server in
        [Server::agent(TOOL, Unix), Server::nbdkit(TOOL, Unix), Server::qemu_nbd(TOOL, Unix)]
    {
        let (from, back) = (server.dir.path().join("from"), server.dir.path().join("back"));
        sparse(&from, SIZE, &DATA);
        let copied = told(&[text(&from), &server.uri]);
        let data: u64 = DATA.iter().map(|(_, len)| len).sum();
        assert_eq!(copied["data"], data, "{}", server.uri);
        assert_eq!(map(&from), map(&server.disk), "{}", server.uri);
        copies(&[&server.uri, text(&back)]);
        assert_eq!(map(&from), map(&back), "{}", server.uri);
        copies(&[text(&back), text(&from), "-q"]);
        assert_eq!(map(&from), map(&back), "{}", server.uri);
    }
}

#[test]
fn zeroes_that_take_up_space_are_found() {
    let server = Server::agent(TOOL, Unix);
    let (from, to) = (server.dir.path().join("from"), server.dir.path().join("to"));
    let mut bytes = vec![0; 8 << 20];
    bytes[100_000] = 1;
    bytes[5_000_000..5_100_000].fill(2);
    fs::write(&from, &bytes).expect("room");
    copies(&[text(&from), text(&to), "--sparse=4k"]);
    assert!(is_same(&from, &to));
    assert!(used(&to) <= 4096 * 28, "{}", used(&to));
    copies(&[text(&from), text(&to), "--sparse=64k"]);
    assert!(is_same(&from, &to));
    assert_eq!(used(&to), 65536 * (1 + 2));
    copies(&[text(&from), text(&to), "--sparse=0"]);
    assert!(is_same(&from, &to) && used(&to) >= 8 << 20);
    copies(&[text(&from), &server.uri, "--verify"]);
    assert!(used(&server.disk) < 1 << 20, "{}", used(&server.disk));
}

#[test]
fn what_is_asked_to_be_allocated_is() {
    let server = Server::agent(TOOL, Unix);
    let (from, to) = (server.dir.path().join("from"), server.dir.path().join("to"));
    sparse(&from, SIZE, &[(1 << 20, 100_000)]);
    copies(&[text(&from), text(&to), "--allocated"]);
    assert!(is_same(&from, &to) && used(&to) >= SIZE, "{}", used(&to));
    copies(&[text(&from), &server.uri, "--allocated"]);
    assert!(is_same(&from, &server.disk) && used(&server.disk) >= SIZE);
}

#[test]
fn what_is_there_is_overwritten_by_zeroes_unless_it_is_said_to_be_zero() {
    let server = Server::agent(TOOL, Unix);
    let from = server.dir.path().join("from");
    sparse(&from, SIZE, &[(1 << 20, 100_000)]);
    sparse(&server.disk, SIZE, &[(0, SIZE)]);
    copies(&[text(&from), &server.uri]);
    assert!(is_same(&from, &server.disk));
    sparse(&server.disk, SIZE, &[(5 << 20, 1)]);
    copies(&[text(&from), &server.uri, "--destination-is-zero"]);
    let there = fs::read(&server.disk).expect("the disk");
    assert!(there[5 << 20] != 0, "it was believed, and left as it was");
    let log = tempfile::NamedTempFile::new().expect("a file");
    let plugin = format!("logfile={}", log.path().display());
    let script = r#"truncate -s 16M from
        "$tool" copy from "$uri" --destination-is-zero
        "$tool" copy from "$uri" --target-is-zero --no-flush"#;
    under_nbdkit(&["--filter=log"], &["memory", "16M", &plugin], script);
    let log = fs::read_to_string(log.path()).expect("the log");
    assert!(!log.contains(" Zero ") && !log.contains(" Write "), "{log}");
    assert_eq!(log.matches(" Flush id=").count(), 1, "{log}");
}

#[test]
fn a_source_that_is_not_asked_for_its_holes_is_read() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let plugin = format!("logfile={}", log.path().display());
    let script = r#""$tool" copy "$uri" to
        test "$(stat -c %b to)" -eq 0
        "$tool" copy "$uri" to --no-extents
        test "$(stat -c %b to)" -eq 0"#;
    under_nbdkit(&["--filter=log"], &["memory", "2M", &plugin], script);
    let log = fs::read_to_string(log.path()).expect("the log");
    assert_eq!(log.matches(" Extents id=").count(), 1, "{log}");
    assert_eq!(log.matches(" Read id=").count(), 8, "{log}");
}

#[test]
fn very_large_holes_cost_nothing() {
    let script = r#""$tool" copy "$uri" to --json | grep '"zeroes": 8796093022208'
        test "$(stat -c %s,%b to)" = 8796093022208,0
        "$tool" copy to "$uri"
        "$tool" copy "$uri" null:"#;
    under_nbdkit(&[], &["memory", "8T"], script);
}
