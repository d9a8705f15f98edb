//! `copy`: what comes out is what went in, holes and all; held against nbdcopy and cmp.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    process::{Command, Stdio},
};

use super::{json, libnbd, server::TOOL, servers};

/// A file of 5 MiB and a bit: data, a hole, data.
fn image(path: &std::path::Path) -> Vec<u8> {
    let file = File::create(path).unwrap();
    let data: Vec<u8> =
        (0..1_000_001_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    file.write_all_at(&data[..1_000_000], 0).unwrap();
    file.write_all_at(&data[..1_000_003], 4_300_000).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_file_goes_into_every_server_and_comes_back() {
    for server in servers() {
        let (one, two) = (server.dir.path().join("in"), server.dir.path().join("out"));
        let bytes = image(&one);
        let copy = |words: &[&str]| {
            let output = Command::new(TOOL).arg("copy").args(words).output().unwrap();
            assert!(
                output.status.success(),
                "{words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            output.stdout
        };
        copy(&[one.to_str().unwrap(), &server.uri, "--verify", "--quiet"]);
        assert_eq!(server.holds(0, bytes.len()), bytes);
        let told = json(&copy(&[&server.uri, two.to_str().unwrap(), "--json"]));
        assert_eq!(told["length"], super::server::SIZE);
        let there = fs::read(&two).unwrap();
        assert_eq!(there[..bytes.len()], bytes);
        assert!(there[bytes.len()..].iter().all(|byte| *byte == 0));
        let taken = fs::metadata(&two).unwrap().blocks() * 512;
        assert!(taken < 4 << 20, "the holes have become data: {taken} bytes");
        let judge = libnbd("nbdcopy", &[&server.uri, "-"]);
        assert!(judge.stdout == there, "nbdcopy reads something else");
        let piped = copy(&[&server.uri, "-"]);
        assert!(piped == there, "a pipe gets something else");
    }
}

#[test]
fn a_pipe_goes_in_and_what_does_not_fit_is_not_begun() {
    let server = super::Server::agent(super::Unix);
    let mut child =
        Command::new(TOOL).args(["copy", "-", &server.uri]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&[7; 100_000]).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(server.holds(0, 100_000), [7; 100_000]);
    let long = server.dir.path().join("long");
    File::create(&long).unwrap().set_len(super::server::SIZE + 1).unwrap();
    for (source, says) in [(long.to_str().unwrap(), "too small"), (&server.uri, "the same")] {
        let output = Command::new(TOOL).args(["copy", source, &server.uri]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{output:?}");
    }
    assert_eq!(server.holds(0, 100_000), [7; 100_000]);
}
