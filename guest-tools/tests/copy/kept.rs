//! What is said to be copied is there, durable, and nothing else: by whichever name the destination was given.

use std::{
    fs::{self, File, OpenOptions},
    path::Path,
    process::{Command, Output, Stdio},
};

use support::{
    random::Random,
    server::{Server, Transport::Unix},
};

use crate::{TOOL, loops::Loop, text};

/// A shell command with `$tool`, `$from`, `$to` and `$uri`.
fn shell(script: &str, from: &Path, to: &Path, uri: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("tool", TOOL).env("from", from).env("to", to).env("uri", uri);
    command.stdin(Stdio::null()).output().expect("sh starts")
}

fn fails(script: &str, from: &Path, to: &Path, uri: &str, says: &str) {
    let output = shell(script, from, to, uri);
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{script}: {why}");
    assert!(why.contains(says), "{script}: {why}");
}

#[test]
fn no_words_come_among_the_bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let bytes = Random::new(7).bytes(1 << 20);
    fs::write(&from, &bytes).expect("a file");
    for script in [
        r#""$tool" copy "$from" - --progress=1 > "$to""#,
        r#""$tool" copy "$from" /dev/stdout --json > "$to""#,
        r#""$tool" copy "$from" "$to" --json > "$to""#,
        r#""$tool" copy "$from" "$to" --progress=3 3> "$to""#,
        r#""$tool" copy "$from" - 2>&1 > "$to" | cat >&2; exit 1"#,
    ] {
        if script.contains("2>&1") {
            // The words have another place than the bytes.
            shell(script, &from, &to, "");
            assert!(fs::read(&to).expect("a file") == bytes, "{script}");
            continue;
        }
        fails(script, &from, &to, "", "would be written among the bytes");
        assert_eq!(fs::metadata(&to).expect("a file").len(), 0, "{script}");
    }
    let output = shell(r#""$tool" copy "$from" - > "$to" 2>&1"#, &from, &to, "");
    assert_eq!(output.status.code(), Some(1));
    let output = shell(r#""$tool" copy "$from" - -q > "$to" 2>&1"#, &from, &to, "");
    assert!(output.status.success() && fs::read(&to).expect("a file") == bytes);
}

#[test]
fn a_standard_stream_that_is_closed_is_no_place_for_bytes() {
    let server = Server::agent(TOOL, Unix);
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, [1; 4096]).expect("a file");
    fs::write(&to, [2; 4096]).expect("a file");
    for script in [
        r#""$tool" copy "$from" - >&-"#,
        r#""$tool" copy - "$to" <&-"#,
        r#""$tool" read "$uri" --length 512 >&-"#,
        r#""$tool" write "$uri" <&-"#,
    ] {
        fails(script, &from, &to, &server.uri, "Bad file descriptor");
        assert_eq!(fs::read(&to).expect("a file"), [2; 4096], "{script}");
    }
}

#[test]
fn the_file_that_a_server_has_open_is_no_other_side() {
    let server = Server::agent(TOOL, Unix);
    let bytes = Random::new(8).bytes(fs::metadata(&server.disk).expect("the disk").len());
    fs::write(&server.disk, &bytes).expect("the disk");
    let why = crate::fails(&[&server.uri, text(&server.disk)]);
    assert!(why.contains("is open in the server of"), "{why}");
    assert!(fs::read(&server.disk).expect("the disk") == bytes);
}

#[test]
fn a_destination_that_cannot_be_so_long_keeps_its_content() {
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let long = OpenOptions::new().create_new(true).write(true).open(&from).expect("a file");
    long.set_len(1 << 30).expect("a length");
    fs::write(&to, [2; 4096]).expect("a file");
    // In blocks of 512 or 1,024 bytes.
    let script = r#"ulimit -f 4096; trap '' XFSZ; "$tool" copy "$from" "$to""#;
    fails(script, &from, &to, "", "set the length of");
    assert_eq!(fs::read(&to).expect("a file"), [2; 4096]);
}

/// A tmpfs that is nearly full; taken away when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let words = ["-t", "tmpfs", "-o", "size=3M", "tmpfs", text(dir.path())];
        let mounted = Command::new("mount").args(words).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        eprintln!("NOT TRIED: this needs to mount");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        Command::new("umount").args(["--lazy", text(self.0.path())]).status().ok();
    }
}

#[test]
fn what_a_standard_stream_keeps_is_made_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let from = dir.path().join("from");
    fs::write(&from, Random::new(9).bytes(8 << 20)).expect("a file");
    let server = Server::agent(TOOL, Unix);
    fs::write(&server.disk, Random::new(10).bytes(8 << 20)).expect("the disk");
    for script in [
        r#""$tool" copy "$from" - > "$to""#,
        r#""$tool" copy - - < "$from" > "$to""#,
        r#""$tool" read "$uri" --output "$to""#,
        r#""$tool" read "$uri" > "$to""#,
    ] {
        let Some(small) = Small::new() else { return };
        let file = small.0.path().join("file");
        File::create(&file).expect("a file").set_len(16 << 20).expect("a length");
        let Some(device) = Loop::over(&file, &[]) else { return };
        // What the device takes, it cannot keep.
        fails(script, &from, Path::new(&device.device), &server.uri, "may not be durable");
    }
}
