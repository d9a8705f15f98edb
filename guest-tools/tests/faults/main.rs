//! `test` against servers that are wrong in one way each, made for it, and against one that is right but
//! loses at a crash what it may lose.

use std::process::{Command, Output};

use support::{
    faulty::{Fault, Kind, SIZE, Server},
    until,
};

fn test(server: &Server, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_guest-tools"))
        .args(["test", &server.uri])
        .args(words)
        .output()
        .expect("guest-tools starts")
}

fn error(output: &Output) -> &str {
    str::from_utf8(&output.stderr).expect("UTF-8")
}

#[test]
fn a_server_with_a_volatile_cache_is_right() {
    for kind in [Kind::PLAIN, Kind::STRUCTURED] {
        let server = Server::start(kind);
        let output = test(&server, &["--destroy", "--seed", "1"]);
        assert!(output.status.success(), "{}", error(&output));
        let output = test(&server, &["--read-only"]);
        assert!(output.status.success(), "{}", error(&output));
    }
}

/// A fault, and what is said of it.
type Row = (Fault, &'static str);

fn caught(rows: &[Row], size: usize) {
    for &(fault, says) in rows {
        let server = Server::start(Kind { fault: Some(fault), size, ..Kind::STRUCTURED });
        let output = test(&server, &["--destroy", "--seed", "1"]);
        let said = error(&output);
        assert_eq!(output.status.code(), Some(1), "{fault:?} is not caught: {said}");
        assert!(said.contains("the disk is wrong: the byte at"), "{fault:?}: {said}");
        assert!(said.contains(says), "{fault:?}: {said}");
    }
}

#[test]
fn each_fault_of_any_request_is_caught() {
    caught(
        &[
            (Fault::DropsAWrite, "due: generation"),
            // It hits what was written, trimmed or zeroed before.
            (Fault::SwapsTwo, "due: "),
            (Fault::TearsAWrite, "due: generation"),
            (Fault::FlushesEarly, "made durable"),
            (Fault::FlushesItsOwn, "made durable"),
            (Fault::IgnoresFua, "made durable"),
            (Fault::IgnoresFuaOfZeroes, "made durable"),
            (Fault::ShowsOthersLate, "answered"),
            (Fault::TrimsTooMuch, "due: generation"),
            (Fault::ZeroesTooLittle, "due: zeroes"),
            (Fault::ForgetsFastZeroes, "due: zeroes"),
            (Fault::FlipsABit, "due: generation"),
            (Fault::CacheDestroys, "due: generation"),
            (Fault::CutsWholeReads, "answered"),
        ],
        SIZE,
    );
}

#[test]
fn each_fault_of_long_requests_is_caught() {
    caught(
        &[
            (Fault::CutsZeroes, "due: zeroes"),
            (Fault::CutsWrites, "due: generation"),
            (Fault::CutsReads, "due: generation"),
            (Fault::TrimsLongTooFar, "due: generation"),
            (Fault::ZeroesLongTooFar, "due: generation"),
        ],
        SIZE,
    );
}

#[test]
fn each_fault_of_parts_of_blocks_is_caught() {
    const SAYS: &str = "answered, of a request at any offset";
    caught(
        &[
            (Fault::WritesAtBlocks, SAYS),
            (Fault::ReadsAtBlocks, SAYS),
            (Fault::WritesWholeBlocks, SAYS),
            (Fault::WritesZeroesBeside, SAYS),
            (Fault::ZeroesWholeBlocks, SAYS),
            (Fault::TrimsWholeBlocks, SAYS),
            (Fault::RacesInABlock, SAYS),
            (Fault::TakesForZeroes, SAYS),
        ],
        SIZE,
    );
    caught(&[(Fault::LosesTheTail, SAYS)], SIZE - 100);
}

#[test]
fn each_lie_about_extents_is_caught() {
    const SAYS: &str = "in an extent of zeroes";
    caught(
        &[
            (Fault::SaysAllIsHole, SAYS),
            (Fault::SaysTheRestIsHole, SAYS),
            (Fault::SaysLate, SAYS),
            (Fault::SaysInLargeBlocks, SAYS),
            (Fault::SaysShifted, SAYS),
            (Fault::SaysOfBlocks, SAYS),
        ],
        SIZE,
    );
}

/// An export of which a part is tested if nothing is said.
#[test]
fn each_fault_of_far_offsets_is_caught() {
    let right = Server::start(Kind { size: 9 << 30, ..Kind::STRUCTURED });
    let output = test(&right, &["--destroy", "--seed", "1", "--most", "1M"]);
    assert!(output.status.success(), "{}", error(&output));
    for fault in [Fault::CutsOffsets, Fault::HasLess] {
        let kind = Kind { fault: Some(fault), size: 9 << 30, ..Kind::STRUCTURED };
        let server = Server::start(kind);
        let output = test(&server, &["--destroy", "--seed", "1", "--most", "1M"]);
        assert_eq!(output.status.code(), Some(1), "{fault:?}: {}", error(&output));
        assert!(error(&output).contains("the disk is wrong"), "{fault:?}: {}", error(&output));
    }
}

#[test]
fn a_read_only_export_is_not_begun_with() {
    let server = Server::start(Kind { read_only: true, ..Kind::STRUCTURED });
    let output = test(&server, &["--destroy"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("it is read-only"), "{}", error(&output));
    // It says goodbye, and the server may hear it when the tool has ended.
    until("it disconnects", || server.requests() > 0);
    assert_eq!(server.requests(), 1);
}

#[test]
fn what_was_changed_since_the_last_run_is_found_without_changing_anything() {
    let server = Server::start(Kind::STRUCTURED);
    let output = test(&server, &["--read-only"]);
    assert!(error(&output).contains("no header of a test"), "{}", error(&output));
    assert!(test(&server, &["--destroy", "--length", "1M"]).status.success());
    server.spoil(700_000);
    let output = test(&server, &["--read-only"]);
    assert!(error(&output).contains("the byte at 700000 "), "{}", error(&output));
}
