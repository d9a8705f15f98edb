//! `test` against servers that are wrong in one way each, made for it, and against one that is right but
//! loses at a crash what it may lose.

mod server;

use std::process::{Command, Output};

use server::{Fault, Kind, Server};

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

#[test]
fn each_fault_is_caught() {
    for (fault, says) in [
        (Fault::DropsAWrite, "due: generation"),
        // It hits what was written, trimmed or zeroed before.
        (Fault::SwapsTwo, "due: "),
        (Fault::TearsAWrite, "due: generation"),
        (Fault::FlushesEarly, "made durable"),
        (Fault::IgnoresFua, "made durable"),
        (Fault::ShowsOthersLate, "answered"),
        (Fault::TrimsTooMuch, "found: zeroes"),
        (Fault::ZeroesTooLittle, "due: zeroes"),
        (Fault::FlipsABit, "due: generation"),
    ] {
        let server = Server::start(Kind { fault: Some(fault), ..Kind::STRUCTURED });
        let output = test(&server, &["--destroy", "--seed", "1"]);
        let said = error(&output);
        assert_eq!(output.status.code(), Some(1), "{fault:?} is not caught: {said}");
        assert!(said.contains("the disk is wrong: the byte at"), "{fault:?}: {said}");
        assert!(said.contains(says), "{fault:?}: {said}");
    }
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
