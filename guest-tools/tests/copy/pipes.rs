//! Standard input and output: in order, with holes found and zeroes written.

use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
};

use support::{
    random::Random,
    server::{SIZE, Server, Transport::Unix},
};

use crate::{TOOL, loops::Loop, sparse, text, under_nbdkit};

#[test]
fn a_stream_in_and_a_stream_out() {
    let server = Server::agent(TOOL, Unix);
    sparse(&server.disk, SIZE, &[(3, 3_000_001), (9 << 20, 77)]);
    let disk = fs::read(&server.disk).expect("the disk");
    let mut out = Command::new(TOOL);
    out.args(["copy", &server.uri, "-", "-C", "4", "--request-size", "10000"]);
    let output = out.output().expect("it starts");
    assert!(output.status.success() && output.stdout == disk);
    assert!(String::from_utf8_lossy(&output.stderr).contains("16777216 bytes copied"));
    for len in [0, 1, 100_001, SIZE] {
        let bytes = Random::new(5).bytes(len);
        for to in [&server.uri, text(&server.dir.path().join("to"))] {
            let mut child = Command::new(TOOL);
            child.args(["copy", "-", to, "--json", "--requests", "3"]);
            child.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = child.spawn().expect("it starts");
            let mut stdin = child.stdin.take().expect("piped");
            // In pieces of no size that anything else has.
            bytes.chunks(7777).for_each(|piece| stdin.write_all(piece).expect("it reads"));
            drop(stdin);
            let mut said = Vec::new();
            child.stdout.take().expect("piped").read_to_end(&mut said).expect("it ends");
            assert!(child.wait().expect("it ends").success());
            let said: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
            assert_eq!((&said["length"], &said["flushed"]), (&len.into(), &true.into()));
        }
        let there = fs::read(&server.disk).expect("the disk");
        assert!(there.starts_with(&bytes));
        assert!(fs::read(server.dir.path().join("to")).expect("a file") == bytes);
    }
}

#[test]
fn a_stream_with_zeroes_at_its_end_makes_a_file_of_its_length() {
    under_nbdkit(
        &[],
        &["memory", "3M"],
        r#"head -c 1M /dev/urandom > from
           truncate -s 2500001 from
           cat from | "$tool" copy - to
           cmp from to
           test "$(stat -c %b to)" -lt 3000
           cat from | "$tool" copy - - -q | cmp - from
           mkfifo pipe
           "$tool" copy from pipe &
           cmp pipe from
           wait
           cat from > pipe &
           "$tool" copy pipe "$uri"
           nbdcopy "$uri" back
           cmp -n 2500001 from back
           "$tool" copy "$uri" /dev/null"#,
    );
}

#[test]
fn a_stream_that_is_too_long_is_told() {
    let said = under_nbdkit(
        &[],
        &["memory", "1M"],
        r#"! head -c 1048577 /dev/zero | "$tool" copy - "$uri""#,
    );
    assert!(said.contains("is incomplete") && said.contains("has more than the 1048576"), "{said}");
}

#[test]
fn readers_that_go_away_and_full_disks_are_told() {
    let said = under_nbdkit(
        &[],
        &["memory", "9M"],
        r#"if "$tool" copy "$uri" - | head -c 1000 | wc -c; then :; fi
           ! "$tool" copy "$uri" - > /dev/full"#,
    );
    assert!(said.contains("standard output: Broken pipe"), "{said}");
    assert!(said.contains("bytes at 0 of standard output: No space left"), "{said}");
}

/// Each would wait for the other if one of them only read or only wrote.
#[test]
fn two_of_them_in_a_row() {
    let server = Server::agent(TOOL, Unix);
    let other = Server::nbdkit(TOOL, Unix);
    sparse(&server.disk, SIZE, &[(0, SIZE)]);
    let mut first = Command::new(TOOL);
    first.args(["copy", &server.uri, "-"]).stdout(Stdio::piped());
    let mut first = first.spawn().expect("it starts");
    let mut second = Command::new(TOOL);
    second.args(["copy", "-", &other.uri]).stdin(first.stdout.take().expect("piped"));
    let second = thread::spawn(move || second.status().expect("it starts"));
    assert!(first.wait().expect("it ends").success());
    assert!(second.join().expect("it ends").success());
    assert!(crate::is_same(&server.disk, &other.disk));
}

/// A range that the destination cannot zero by itself is written as zeroes.
#[test]
fn zeroes_of_a_stream_reach_a_destination_that_can_only_be_written() {
    for (filters, params) in [
        (&["--filter=nozero"][..], &["memory", "4M"][..]),
        (&["--filter=nozero", "--filter=noparallel"], &["memory", "4M", "serialize=connections"]),
        (
            &["--filter=nozero", "--filter=blocksize-policy"],
            &["memory", "4M", "blocksize-minimum=4096", "blocksize-error-policy=error"],
        ),
    ] {
        under_nbdkit(
            filters,
            params,
            r#"head -c 4M /dev/urandom > before
               for size in 1 511 4096 1000001 3000000 4194304; do
                   head -c $size /dev/zero > from
                   nbdcopy before "$uri"
                   timeout 20 "$tool" copy - "$uri" --timeout 5s < from
                   nbdcopy "$uri" after
                   cmp -n $size from after
                   cmp -i $size before after
               done
               # Zeroes between data, and at the end.
               (head -c 700001 /dev/urandom; head -c 999 /dev/zero; head -c 1M /dev/urandom
                head -c 2M /dev/zero) > from
               timeout 20 "$tool" copy - "$uri" --timeout 5s < from
               nbdcopy "$uri" after
               cmp -n "$(stat -c %s from)" from after"#,
        );
    }
}

#[test]
fn zeroes_of_a_stream_reach_a_block_device() {
    let dir = tempfile::tempdir().expect("a directory");
    let backing = dir.path().join("backing");
    fs::write(&backing, Random::new(9).bytes(3 << 20)).expect("a file");
    let before = fs::read(&backing).expect("a file");
    let Some(device) = Loop::over(&backing, &[]) else { return };
    for len in [100_usize, 4096, 1_000_001, 3 << 20] {
        let mut child = Command::new("timeout");
        child.args(["20", TOOL, "copy", "-", &device.device, "--quiet"]).stdin(Stdio::piped());
        let mut child = child.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(&vec![0; len]).expect("it reads");
        drop(stdin);
        assert!(child.wait().expect("it ends").success(), "{len}");
        let after = fs::read(&device.device).expect("a device");
        assert!(after[..len].iter().all(|&byte| byte == 0), "{len}");
        assert!(after[len..] == before[len..], "{len}");
    }
}
