//! A server that dies after each byte of a whole session.

use crate::{
    COPY_FROM, COPY_TO, INFO, LIST, MAP, READ, TRIM, WRITE, Words, ZERO, judge, run,
    server::{Framing, HONEST, Manner, Server, pattern},
};

/// Sizes of the export, bytes: one that is read whole and one that is received in place would be
/// long; what is read here is short, and every byte of it counts.
const SIZE: u64 = 48;

fn dies(framing: Framing, size: u64, step: usize, words: Words) {
    let words: Vec<_> =
        words.iter().map(|word| if *word == "48k" { "48" } else { *word }).collect();
    let mut lives = 0;
    loop {
        let told = format!("{words:?} of a server that dies after {lives} bytes");
        let server = Server::start(Manner { size, lives, ..Manner::new(framing, HONEST) });
        let output = run(&server, &words);
        if output.status.success() {
            assert!(lives > 60, "{told} succeeds");
            if words[0] == "read" {
                assert!(output.stdout == pattern(0, size), "{told}");
            } else if words[..] == *COPY_FROM {
                let copied = std::fs::read(server.dir.path().join("copied")).expect("a file");
                assert_eq!(copied, pattern(0, size), "{told}");
            }
            return;
        }
        let line = judge(&words, &output).unwrap_or_else(|why| panic!("{told}: {why}"));
        // A request may meet a socket that is closed already.
        let says = ["closed the connection while", "failed while sending", "failed while waiting"];
        assert!(says.iter().any(|says| line.contains(says)), "{told}: {line}");
        assert!(line.contains(&server.uri), "{told}: {line}");
        lives += step;
    }
}

#[test]
fn info_is_cut_at_every_byte() {
    dies(Framing::Extended, SIZE, 1, INFO);
}

#[test]
fn list_is_cut_at_every_byte() {
    dies(Framing::Structured, SIZE, 1, LIST);
}

#[test]
fn map_is_cut_at_every_byte() {
    dies(Framing::Extended, SIZE, 1, MAP);
}

#[test]
fn read_is_cut_at_every_byte() {
    for framing in [Framing::Simple, Framing::Structured, Framing::Extended] {
        dies(framing, SIZE, 1, READ);
    }
}

#[test]
fn a_long_read_is_cut() {
    // Received in place, and several at once.
    dies(Framing::Structured, 5 << 20, 400_009, READ);
}

#[test]
fn changes_are_cut_at_every_byte() {
    for words in [WRITE, ZERO, TRIM] {
        dies(Framing::Structured, SIZE, 1, words);
    }
}

#[test]
fn copies_are_cut_at_every_byte() {
    dies(Framing::Structured, SIZE, 1, COPY_FROM);
    dies(Framing::Extended, 64 << 10, 7, COPY_TO);
}
