//! Random layouts of data, zeroes and holes, copied with random words: what comes out is what went
//! in, and nothing else was touched.

use std::{fs, os::unix::fs::FileExt};

use support::{
    random::Random,
    server::{SIZE, Server, Transport::Unix},
};

use crate::{TOOL, is_same, judge, text, told};

#[test]
fn whatever_goes_in_comes_out() {
    let servers =
        [Server::agent(TOOL, Unix), Server::nbdkit(TOOL, Unix), Server::qemu_nbd(TOOL, Unix)];
    let dir = tempfile::tempdir().expect("a directory");
    let (from, back) = (dir.path().join("from"), dir.path().join("back"));
    let mut random = Random::new(0x5eed);
    for round in 0..15 {
        let server = &servers[round % servers.len()];
        let size = SIZE - [0, random.below(SIZE / 2), random.below(5000)][round % 3];
        let file = fs::File::create(&from).expect("a file");
        file.set_len(size).expect("its length");
        let unit = 1 << random.below(17);
        for _ in 0..random.below(60) {
            let at = random.below(size / unit) * unit;
            let len = (random.below(300_000) + 1).min(size - at);
            let bytes = match random.below(3) {
                0 => vec![0; usize::try_from(len).expect("small")],
                _ => random.bytes(len),
            };
            file.write_all_at(&bytes, at).expect("room");
        }
        // The disk is full of something else.
        let disk = fs::File::options().write(true).open(&server.disk).expect("the disk");
        disk.write_all_at(&vec![0xa5; usize::try_from(SIZE).expect("small")], 0).expect("room");
        let request = (512 << random.below(12)).to_string();
        let requests = (1 + random.below(20)).to_string();
        let sparse = ["0", "512", "4096", "64k"][usize::from(random.byte()) % 4];
        let mut words = vec!["--request-size", &*request, "--requests", &*requests];
        words.extend([
            "--sparse",
            sparse,
            "--connections",
            ["1", "3"][usize::from(random.byte()) % 2],
        ]);
        for word in ["--no-extents", "--allocated", "--no-flush", "--verify"] {
            if random.below(4) == 0 {
                words.push(word);
            }
        }
        let up = told(&[&[text(&from), &*server.uri], &*words].concat());
        let what = format!("round {round}, size {size}, {words:?} on {}", server.uri);
        assert_eq!(up["length"], size, "{what}");
        let there = fs::read(&server.disk).expect("the disk");
        let (head, rest) = there.split_at(usize::try_from(size).expect("small"));
        assert!(head == fs::read(&from).expect("a file"), "{what}: up");
        assert!(rest.iter().all(|&byte| byte == 0xa5), "{what}: behind");
        told(&[&[&*server.uri, text(&back)], &*words].concat());
        assert!(is_same(&server.disk, &back), "{what}: down");
        judge("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&server.disk), text(&back)]);
    }
}
