//! The layers that derive another disk from a disk: clients see the same as with nbdkit.

use std::{fs, process::Command};

use support::{
    agent::NBDKIT,
    process::{assert_refuses, printed_by_client},
};

use crate::BINARY;

/// Prints the disk before and after requests at its borders, the results of the requests, and the
/// extents.
const CLIENT: &str = r#"/usr/bin/python3 -c '
import hashlib, nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
size = h.get_size()
print("size", size, "ro", h.is_read_only())
def tried(name, act):
    try:
        print(name, act())
    except nbd.Error as error:
        print(name, error.errno)
def data():
    return hashlib.sha256(b"".join(h.pread(min(70000, size - at), at)
                                   for at in range(0, size, 70000))).hexdigest()
print(data())
for at, len in ((0, 1), (0, 512), (100, 70000), (size // 2, 5), (size - 300, 300), (size - 1, 1)):
    if 0 <= at and at + len <= size:
        tried(f"same {at}", lambda: h.pwrite(h.pread(len, at), at))
        tried(f"zeroes {at}", lambda: h.pwrite(bytes(len), at))
        tried(f"write {at}", lambda: h.pwrite(b"x" * len, at))
        tried(f"zero {at}", lambda: h.zero(len, at))
print(data())
map, at = [], 0
def add(context, offset, entries, error):
    for length, flags in zip(entries[::2], entries[1::2]):
        if map and map[-1][1] == flags:
            map[-1][0] += length
        else:
            map.append([length, flags])
while sum(length for length, _ in map) < size:
    at = sum(length for length, _ in map)
    h.block_status(size - at, at, add)
print(map)
h.shutdown()
' "$uri""#;

fn seen(server: &str, words: &[&str]) -> String {
    printed_by_client(server, words, CLIENT)
}

/// 10 MiB with a hole, and a table of one primary and two logical partitions.
fn disk() -> Vec<u8> {
    let mut disk: Vec<u8> = (0..10_u32 << 20).map(|i| (i / 1000 % 255) as u8 + 1).collect();
    disk[5 << 20..6 << 20].fill(0);
    let mut entry = |sector: usize, i: usize, kind: u8, start: u32, len: u32| {
        let table = &mut disk[sector * 512..][..512];
        let entry = &mut table[446 + 16 * i..][..16];
        entry.fill(0);
        entry[4] = kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&len.to_le_bytes());
        table[510..].copy_from_slice(&[0x55, 0xaa]);
    };
    for sector in [0, 4096, 8192] {
        for i in 0..4 {
            entry(sector, i, 0, 0, 0);
        }
    }
    entry(0, 0, 0x83, 63, 1000);
    entry(0, 1, 0x05, 4096, 10_000);
    entry(4096, 0, 0x83, 63, 2000);
    entry(4096, 1, 0x05, 4096, 5000);
    entry(8192, 0, 0x83, 1, 3000);
    disk
}

#[test]
fn clients_see_what_they_see_with_nbdkit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let disk = disk();
    let same = |filter: &str, words: &[&str]| {
        let filters: Vec<String> =
            filter.split(' ').map(|filter| format!("--filter={filter}")).collect();
        let mut all: Vec<&str> = filters.iter().map(String::as_str).collect();
        all.extend(["file", path.to_str().unwrap()]);
        let words = [&all, words].concat();
        let [ours, theirs] = [BINARY, NBDKIT].map(|server| {
            fs::write(&path, &disk).unwrap();
            (seen(server, &words), fs::read(&path).unwrap())
        });
        assert_eq!(ours.0, theirs.0, "{words:?}");
        assert!(ours.1 == theirs.1, "{words:?}: the files differ");
    };
    same("offset", &["offset=1M", "range=3M"]);
    same("offset", &["offset=1000"]);
    same("offset", &["offset=12345", "range=1000001"]);
    same("offset", &[]);
    same("truncate", &["truncate=1M"]);
    same("truncate", &["truncate=12M"]);
    same("truncate", &["round-up=8M"]);
    same("truncate", &["truncate=10485000", "round-down=4096"]);
    // nbdkit's filter does not advertise zeroes over a read-only plugin.
    same("nozero cow", &[]);
    same("nozero cow", &["cow-block-size=4096"]);
    same("nozero cow", &["cow-on-read=true", "cow-block-size=1M"]);
    for number in ["1", "5", "6"] {
        same("partition", &[&format!("partition={number}")]);
    }
    same("protect", &["protect=0-511"]);
    same("protect", &["protect=~0x100000-"]);
    // Only one range, and within the disk: with any other, nbdkit 1.32 crashes at a request for
    // zeroes.
}

#[test]
fn impossible_shapes_are_refused() {
    for (words, part) in [
        ("--filter=protect null protect=5", "filter protect: protect=5 is not a range"),
        ("--filter=partition null", "filter partition: parameter 'partition' is missing"),
        ("--filter=partition null partition=0", "partition=0 is not a partition's number"),
        ("--filter=truncate null round-up=0", "round-up=0 is not a multiple"),
        ("--filter=cow null cow-block-size=5000", "cow-block-size=5000 is not a block's size"),
        ("--filter=offset null offset=x", "filter offset: offset=x is not a size"),
    ] {
        assert_refuses(BINARY, words, part);
    }
}

#[test]
fn an_overlay_is_one_for_all_connections_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    fs::write(&path, disk()).unwrap();
    let script = r#"/usr/bin/python3 -c '
import nbd, sys
def connect():
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    return h
a, b = connect(), connect()
a.pwrite(b"overlay" * 1000, 70000)
assert b.pread(7000, 70000) == b"overlay" * 1000
b.shutdown(), a.shutdown()
assert connect().pread(7, 70000) == b"overlay"
' "$uri""#;
    let status = Command::new(BINARY)
        .args(["--filter=cow", "file", path.to_str().unwrap(), "-U", "-", "--run", script])
        .env("TMPDIR", dir.path())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(fs::read(&path).unwrap() == disk(), "the file is as it was");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is there");
}
