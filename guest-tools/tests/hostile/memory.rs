//! Servers that cut their answers into as many parts as they may, or name numbers that somebody may
//! make room for. `main` sees to it that there is little memory, and time.

use crate::{
    Case, Words, judge, run,
    server::{
        Act, Asked, DONE, Framing, HOLE, Manner, NONE, READ, STATUS, Script, Server, chunk, status,
    },
};

/// Every byte of a read is a hole of its own.
const HOLES: Script = |asked, honest| match asked {
    Asked::Request(request) if request.command == READ => {
        let mut bytes = Vec::new();
        // Every other one, and then those between.
        for first in [0, 1] {
            for at in (request.at + first..request.at + request.len).step_by(2) {
                bytes.extend(chunk(
                    request,
                    0,
                    HOLE,
                    &[&at.to_be_bytes()[..], &[0, 0, 0, 1]].concat(),
                ));
            }
        }
        bytes.extend(chunk(request, DONE, NONE, &[]));
        Act::Say(bytes)
    }
    _ => Act::Say(honest),
};

#[test]
fn a_read_of_many_holes_takes_no_memory_for_them() {
    let manner = Manner { size: 256 << 10, ..Manner::new(Framing::Structured, HOLES) };
    let server = Server::start(manner);
    for words in [
        &["copy", "--quiet", "URI", "DIR/copied", "--request-size", "128k"][..],
        &["copy", "--quiet", "URI", "null:", "--request-size", "128k"],
        &["copy", "--quiet", "URI", "DIR/copied", "--request-size", "64k", "--requests", "64"],
    ] {
        let output = run(&server, words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let line = judge(&["map"], &run(&server, &["read", "URI", "--output", "DIR/copied"]));
    let line = line.expect("an error");
    assert!(line.contains("a read in too many pieces out of order"), "{line}");
}

/// As many as one chunk may have.
const EXTENTS: Script = |asked, honest| match asked {
    Asked::Request(request) if request.command == STATUS => {
        let all: Vec<_> = (0..1 << 20).map(|n| (1, n % 2 * 3)).collect();
        let mut bytes = status(request, &all);
        if request.extended {
            bytes.extend(chunk(request, DONE, NONE, &[]));
        }
        Act::Say(bytes)
    }
    _ => Act::Say(honest),
};

#[test]
fn answers_of_many_extents_are_not_hoarded() {
    let script: Script = |asked, honest| match asked {
        // The first one never comes.
        Asked::Request(request) if request.command == STATUS && request.at == 0 => {
            Act::Say(Vec::new())
        }
        asked => EXTENTS(asked, honest),
    };
    let manner = Manner { size: 64 << 30, ..Manner::new(Framing::Extended, script) };
    let (name, says) = ("all answers but the first", "no answer in 2s");
    let commands: &[Words] = &[&["map", "URI", "--timeout", "2s"]];
    Case { name, manner, commands, says }.fails();
}

#[test]
fn the_header_of_a_test_is_not_believed() {
    let script: Script = |asked, honest| match asked {
        Asked::Request(request) if request.command == READ => {
            let mut block = b"guest-tools test 1 4611686018427387904 7 16777215\n".to_vec();
            block.resize(usize::try_from(request.len).expect("small"), 0);
            let cookie = request.cookie;
            Act::Say([crate::server::simple(cookie, 0), block].concat())
        }
        _ => Act::Say(honest),
    };
    let size = i64::MAX as u64;
    let manner = Manner { size, ..Manner::new(Framing::Simple, script) };
    let (name, says) = ("a header of 8 EiB", "--length");
    let commands: &[Words] = &[&["test", "URI", "--read-only"]];
    Case { name, manner, commands, says }.fails();
    let commands: &[Words] = &[&["test", "URI", "--read-only", "--length", "8191P"]];
    Case { name, manner, commands, says: "memory" }.fails();
    let commands: &[Words] = &[&["test", "URI", "--destroy", "--length", "8191P"]];
    Case { name, manner, commands, says: "memory" }.fails();
}
