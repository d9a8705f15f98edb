//! Disks and servers that fail in the middle: the place is named, and what is there is called
//! incomplete.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    process::{Child, ChildStdout, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::server::{SIZE, Server, Transport::Unix};

use crate::{TOOL, sparse, text, under_nbdkit};

#[test]
fn a_read_that_fails_has_its_place() {
    let said = under_nbdkit(
        &["--filter=error"],
        &["memory", "4M", "error-pread=EIO", "error-pread-rate=100%"],
        r#"! "$tool" copy "$uri" to --no-extents -C 1 --requests 1"#,
    );
    assert!(said.contains("to is incomplete, 0 of 4194304 bytes"), "{said}");
    assert!(said.contains("cannot read 262144 bytes at 0 on nbd+unix"), "{said}");
    assert!(said.contains("EIO"), "{said}");
}

#[test]
fn a_disk_that_is_full_has_its_place() {
    let said = under_nbdkit(
        &[],
        &["full", "4M"],
        r#"head -c 4M /dev/urandom > from
           ! "$tool" copy from "$uri""#,
    );
    assert!(said.contains("is incomplete, 0 of 4194304 bytes"), "{said}");
    assert!(said.contains("cannot write 262144 bytes at ") && said.contains("ENOSPC"), "{said}");
    assert!(!said.contains("aborting") && !said.contains("Broken pipe"), "{said}");
}

/// Runs `copies` while nbdkit serves `plugin`, a script for its plugin `sh`.
fn under_plugin(plugin: &str, copies: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("plugin.sh");
    fs::write(&path, plugin).expect("a file");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode");
    under_nbdkit(&[], &["sh", text(&path)], copies)
}

#[test]
fn a_flush_that_fails_is_no_success() {
    let script = r#"#!/bin/sh
        case "$1" in
        get_size) echo 1M ;;
        can_write|can_flush) exit 0 ;;
        pread) head -c "$3" /dev/zero ;;
        pwrite) cat > /dev/null ;;
        flush) echo 'EIO the disk is gone' >&2; exit 1 ;;
        *) exit 2 ;;
        esac"#;
    let said = under_plugin(
        script,
        r#"echo x > from
           "$tool" copy from "$uri" --no-flush -q
           ! "$tool" copy from "$uri""#,
    );
    assert!(
        said.contains("was written, but it may not be durable") && said.contains("EIO"),
        "{said}"
    );
}

#[test]
fn differences_are_found_and_named() {
    // A server that loses what is written to one place.
    let script = r#"#!/bin/sh
        case "$1" in
        get_size) echo 1M ;;
        can_write) exit 0 ;;
        pread) dd if="$tmpdir/disk" bs=64k skip="$4" count="$3" iflag=skip_bytes,count_bytes status=none ;;
        pwrite) if [ "$4" -eq 524288 ]; then cat > /dev/null; else
                dd of="$tmpdir/disk" bs=64k seek="$4" oflag=seek_bytes conv=notrunc status=none; fi ;;
        get_ready) truncate -s 1M "$tmpdir/disk" ;;
        *) exit 2 ;;
        esac"#;
    let said = under_plugin(
        script,
        r#"head -c 1M /dev/zero | tr '\0' a > from
           "$tool" copy from "$uri" -q --request-size 64k
           ! "$tool" copy from "$uri" --request-size 64k --verify"#,
    );
    let place = "differ, the first byte at 524288: 0x00 where 0x61 is due";
    assert!(said.contains(place), "{said}");
}

#[test]
fn a_server_that_drops_is_told() {
    for up in [false, true] {
        let (server, other) = slow();
        let uri = server.uri.clone();
        let words = if up { [&*other, &uri] } else { [&*uri, &other] };
        let (mut child, _progress) = begun(&words);
        drop(server);
        let said = ends_badly(&mut child);
        assert!(said.contains("is incomplete, ") && said.contains(words[1]), "{said}");
        let how = ["closed the connection", "Connection reset", "Broken pipe"];
        assert!(how.iter().any(|how| said.contains(how)), "{said}");
    }
}

#[test]
fn an_interrupted_copy_says_that_it_is_incomplete() {
    let (server, other) = slow();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (mut child, _progress) = begun(&[&server.uri, &other]);
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        kill(pid, signal).expect("it lives");
        let said = ends_badly(&mut child);
        assert!(said.contains("is incomplete") && said.contains("interrupted"), "{said}");
        assert!(!said.contains("bytes copied ("), "{said}");
    }
}

/// A server that needs seconds, full of data, and a file beside it, full of data too.
fn slow() -> (Server, String) {
    let server = Server::activated(TOOL, r#"nbdkit -f --filter=rate file "$disk" rate=40M"#, Unix);
    sparse(&server.disk, SIZE, &[(0, SIZE)]);
    let other = server.dir.path().join("other");
    sparse(&other, SIZE, &[(0, SIZE)]);
    let other = text(&other).to_owned();
    (server, other)
}

/// A copy that is under way. Its standard output must be kept open.
pub(crate) fn begun(words: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(TOOL);
    command.arg("copy").args(words).arg("--progress=1");
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut progress = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    progress.read_line(&mut line).expect("progress");
    assert!(line.ends_with("/100\n") && !line.starts_with("100"), "{line}");
    (child, progress)
}

pub(crate) fn ends_badly(child: &mut Child) -> String {
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("it ends");
    assert_eq!(child.wait().expect("it ends").code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}
