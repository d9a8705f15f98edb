//! The small plugins: reads and writes have the same results as with nbdkit.

use std::{fs, process::Command};

use support::{agent::NBDKIT, process::printed_by_client};

use crate::BINARY;

/// Prints the whole disk, its flags, and the results of writes.
const CLIENT: &str = r#"/usr/bin/python3 -c '
import hashlib, nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
size = h.get_size()
print("size", size, "ro", h.is_read_only(), "zero", h.can_zero(), "trim", h.can_trim(),
      "multi", h.can_multi_conn())
def tried(name, act):
    try:
        print(name, act())
    except nbd.Error as error:
        print(name, error.errno)
def data():
    return hashlib.sha256(b"".join(h.pread(min(70000, size - at), at)
                                   for at in range(0, size, 70000))).hexdigest()
print(data())
if size:
    tried("same", lambda: h.pwrite(h.pread(5000, 100), 100))
    tried("other", lambda: h.pwrite(b"x" * 5000, 100))
    print(data())
h.shutdown()
' "$uri""#;

fn seen(server: &str, words: &[&str]) -> String {
    printed_by_client(server, words, CLIENT)
}

#[test]
fn clients_read_and_write_what_they_do_with_nbdkit() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, byte: u8, len: usize| {
        let path = dir.path().join(name);
        fs::write(&path, vec![byte; len]).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let parts = [file("a", 1, 1000), file("b", 2, 0), file("c", 3, 123_456)];
    for words in [
        &["zero"][..],
        &["random", "size=300000", "seed=1"],
        &["random", "100k", "seed=4294967295"],
        &["random", "100k", "seed=0x10"],
    ] {
        assert_eq!(seen(BINARY, words), seen(NBDKIT, words), "{words:?}");
    }
    // Each run writes to the files, so both servers start with the same content.
    let named = format!("file={}", parts[1]);
    let words = ["split", &parts[0], &named, &parts[2]];
    let read_only = [&["-r"][..], &words].concat();
    let (ours, theirs) = (seen(BINARY, &read_only), seen(NBDKIT, &read_only));
    // nbdkit's split has no multi-conn.
    assert!(ours.lines().skip(1).eq(theirs.lines().skip(1)), "{ours}{theirs}");
    seen(BINARY, &words);
    let mut all = vec![1; 1000];
    all.resize(124_456, 3);
    all[100..5100].fill(b'x');
    // nbdkit 1.32 writes wrong bytes after a border.
    let written: Vec<u8> = parts.iter().flat_map(|part| fs::read(part).unwrap()).collect();
    assert!(written == all, "a write is cut at the borders and nowhere else");
}

/// nbdkit 1.32 has no `ones`.
#[test]
fn ones_are_one_byte_over_and_over() {
    let read = |words: &[&str]| {
        let output = Command::new(BINARY)
            .args(words)
            .args(["-U", "-", "--run", r#"nbdcopy "$uri" - | od -An -tx1 -v | tr -d " \n""#])
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(read(&["ones", "5"]), "ffffffffff");
    assert_eq!(read(&["ones", "size=3", "byte=0x5a"]), "5a5a5a");
    assert_eq!(read(&["ones"]), "");
}
