use std::io::Write;

use super::Log;
use crate::DEADLINE;

#[test]
fn lines_are_taken_once_and_found_again() {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let log = Log::follow(reader);
    writer.write_all(b"one\ntwo port=7\nthree\n").expect("room");
    assert_eq!(log.up_to("two", DEADLINE).expect("it comes"), ["one", "two port=7"]);
    assert_eq!(log.after("port=", DEADLINE).as_deref(), Some("7"));
    drop(writer);
    assert_eq!(log.rest(DEADLINE).expect("it ends"), ["three"]);
    assert_eq!(log.lines(), ["one", "two port=7", "three"]);
}

#[test]
fn the_end_of_the_stream_ends_a_wait() {
    let log = Log::follow(&b"one\xff\ntwo"[..]);
    let missing = log.up_to("three", DEADLINE).unwrap_err();
    assert!(missing.ended);
    assert_eq!(missing.lines, ["one\u{fffd}", "two"]);
    assert!(!log.wait_until(DEADLINE, |lines| lines.len() > 2));
}
