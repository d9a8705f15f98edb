//! Somebody else changes a side while it is copied: that is no good copy, and is told.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
};

use support::server::{SIZE, Server, Transport::Unix};
use tempfile::TempDir;

use crate::{
    TOOL, copies,
    faults::{begun, ends_badly},
    loops::Loop,
    sparse, text,
};

/// Data, and as much hole behind it.
const DATA: u64 = SIZE / 2;

/// A server that needs more than a second for the data.
fn slow() -> Server {
    Server::activated(TOOL, r#"nbdkit -f --filter=rate file "$disk" rate=20M"#, Unix)
}

fn source() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("source");
    sparse(&file, SIZE, &[(0, DATA)]);
    let name = text(&file).to_owned();
    (dir, name)
}

fn cut(path: &str, size: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("a file");
    file.set_len(size).expect("its length");
}

type Change = fn(&str);

/// What is done to a file that is copied, and what is said of it.
const CHANGES: [(Change, &str); 5] = [
    // In its hole, which reads as before.
    (|path| cut(path, DATA + 1), "had 16777216 bytes and has 8388609 now"),
    (|path| cut(path, 0), ""),
    (|path| cut(path, SIZE + 1), "had 16777216 bytes and has 16777217 now"),
    (
        |path| {
            cut(path, DATA + 1);
            cut(path, SIZE);
        },
        "was changed while it was copied",
    ),
    (
        |path| {
            let file = OpenOptions::new().write(true).open(path).expect("a file");
            file.write_all_at(b"new", 5).expect("room");
        },
        "was changed while it was copied",
    ),
];

#[test]
fn a_source_that_is_changed_is_told() {
    for (change, says) in CHANGES {
        let (_dir, source) = source();
        let server = slow();
        let (mut child, _progress) = begun(&[&source, &server.uri]);
        change(&source);
        let said = ends_badly(&mut child);
        assert!(said.contains("is incomplete") && said.contains(says), "{says}: {said}");
    }
}

#[test]
fn a_file_as_standard_input_that_is_changed_is_told() {
    for (change, says) in CHANGES {
        let (_dir, source) = source();
        let server = slow();
        for words in [&["copy", "-", &server.uri][..], &["write", &server.uri]] {
            cut(&source, 0);
            sparse(Path::new(&source), SIZE, &[(0, DATA)]);
            let mut command = Command::new(TOOL);
            command.args(words).stdin(File::open(&source).expect("a file"));
            let child = command.stderr(Stdio::piped()).spawn().expect("it starts");
            // It has begun when its file is read.
            let facts = format!("/proc/{}/fdinfo/0", child.id());
            let at = || fs::read_to_string(&facts).expect("it lives");
            while at().starts_with("pos:\t0\n") {
                std::thread::yield_now();
            }
            change(&source);
            let output = child.wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{words:?} {says}: {said}");
            // What was added is read, and finds no room.
            let full = ["has more than", "past the end of the export"];
            let told = said.contains(says) || full.iter().any(|says| said.contains(says));
            assert!(told, "{words:?} {says}: {said}");
        }
    }
}

#[test]
fn a_destination_that_is_cut_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = slow();
    sparse(&server.disk, SIZE, &[(0, DATA)]);
    let target = dir.path().join("target");
    let (mut child, _progress) = begun(&[&server.uri, text(&target)]);
    cut(text(&target), DATA + 1);
    let said = ends_badly(&mut child);
    assert!(said.contains("had 16777216 bytes and has "), "{said}");
}

#[test]
fn a_device_that_is_changed_in_size_is_told() {
    for size in [SIZE + (1 << 20), DATA] {
        let (_dir, backing) = source();
        let Some(device) = Loop::over(Path::new(&backing), &[]) else { return };
        let server = slow();
        let (mut child, _progress) = begun(&[&device.device, &server.uri]);
        cut(&backing, size);
        let resized = Command::new("losetup").args(["--set-capacity", &device.device]).status();
        assert!(resized.expect("losetup starts").success());
        let said = ends_badly(&mut child);
        assert!(said.contains("is incomplete"), "{said}");
    }
}

#[test]
fn what_the_kernel_makes_up_is_read_to_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let target = dir.path().join("target");
    copies(&["/proc/version", text(&target), "-q"]);
    let due = fs::read("/proc/version").expect("a version");
    assert!(!due.is_empty() && fs::read(&target).expect("a file") == due);
}

#[test]
fn a_file_that_is_left_alone_is_copied() {
    let (dir, source) = source();
    // Read by others, and told of by another name.
    let target = dir.path().join("target");
    let server = slow();
    let (mut child, _progress) = begun(&[&source, &server.uri]);
    fs::hard_link(&source, dir.path().join("link")).expect("a link");
    fs::copy(&source, &target).expect("a copy");
    assert!(child.wait().expect("it ends").success());
}
