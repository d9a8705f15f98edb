//! The plugin `data` produces the same bytes as nbdkit's.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use support::{agent::NBDKIT, process::refused};

use crate::BINARY;

fn disk(program: &str, words: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(program);
    command.current_dir(dir).args(["-f", "-U", "-", "--run", "nbdcopy \"$uri\" -"]).arg("data");
    command.args(words).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn every_kind_of_data_is_what_nbdkit_makes_of_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), b"of a file").unwrap();
    for words in [
        &["0 1 2 3 @0x1fe 0x55 0xaa"][..],
        &[" ( 0x55 0xAA )*2048 "],
        &[" ( \"Hello\" )*2000 ", "size=8192"],
        &[" @0x1be 0 0 2 0 0x83 0x20 0x20 0 le32:1 le32:0x7ff @0x1fe 0x55 0xaa", "size=1M"],
        &["0 1 2 3 @^0x200 @-2 le16:0xaa55"],
        &[" <file @^512 <file @^512 "],
        &["<file*2 (<file)[3:4] <file[:2]"],
        &[" <( i=0; while :; do printf '%04d' $i; i=$((i+1)); done )[:3276] "],
        &[
            " ( 0x55 0xAA ) -> \\boot-signature ( @0x1fe \\boot-signature ) -> \\sector \\sector \\sector ",
        ],
        &["$pattern*16", "pattern=0x55 0xAA"],
        &["1 @4 @0"],
        &[" @010 1 @+3 2 @-1 0"],
        &["(1 2 3)[2:]*2 (1 2 3)[:0] 1*0 9"],
        &["( @4 1 )*2"],
        &["\"a\\n\\t\\\\\\\"\" # a comment\n be64:0x0102030405060708 le64:1 be32:7 be16:07"],
        &["(1 2)->\\a (\\a 3 -> \\a \\a)*2 \\a"],
        &["base64=aGVsbG8gbmJka2l0IHVzZXI="],
        &["base64=MTIz", "size=1M"],
        &["raw=Hello, world!"],
        &["raw=abc", "size=2"],
    ] {
        let (ours, theirs) = (disk(BINARY, words, dir.path()), disk(NBDKIT, words, dir.path()));
        let said = String::from_utf8_lossy(&ours.stderr).into_owned();
        assert!(ours.status.success() && theirs.status.success(), "{words:?} {said}");
        assert!(!ours.stdout.is_empty(), "{words:?}");
        assert!(ours.stdout == theirs.stdout, "{words:?}");
    }
}

#[test]
fn it_can_be_written_to_and_is_as_sparse_as_it_looks() {
    let script = "/usr/bin/python3 -c 'import nbd, sys; h = nbd.NBD(); \
        h.add_meta_context(\"base:allocation\"); h.connect_uri(sys.argv[1]); \
        h.pwrite(b\"new\", 1); assert h.pread(5, 0) == b\"\\1new\\0\", h.pread(5, 0); found = []; \
        h.block_status(1 << 31, 0, lambda m, o, e, err: found.extend(e)); \
        assert found[1] == 0 and found[-1] == 3 and found[-2] > 1 << 30, found; \
        assert h.get_size() == 2 << 40' \"$uri\"";
    let mut command = Command::new(BINARY);
    let command =
        command.args(["-U", "-", "--run", script, "data", "1 (0*1000000)*1000000", "size=2T"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn invalid_data_is_reported_with_its_place() {
    for (words, part) in [
        (&["1 256"][..], "at line 1, character 3: '256' is not a number that fits here"),
        (&["1\n(2"], "at line 2, character 2: a '(' here has no ')'"),
        (&["$nosuch"], "$nosuch is neither a parameter nor in the environment"),
        (&["base64=*"], "base64=* is not base64"),
        (&["raw=1", "1"], "give exactly one of data, base64 and raw"),
        (&[], "give exactly one of data, base64 and raw"),
        (&["raw=1", "colour=red"], "these are given: colour"),
        (&["1", "size=-1"], "size=-1 is not a size"),
        (&["1*1000000000000"], "more than 4294967296 bytes"),
    ] {
        let stderr = refused(Command::new(BINARY).arg("data").args(words));
        assert!(stderr.contains(part), "{words:?}: {stderr}");
    }
}
