//! Lines in pieces of any length, every kind of message, and lines that are no message.

use proptest::prelude::*;

use super::*;

/// Lines that are almost messages: a key, a value, and bytes that replace a part.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let key =
        prop::sample::select(vec!["QMP", "event", "return", "error", "id", "data", "timestamp"]);
    let value = prop::sample::select(vec![
        "{}",
        "[]",
        "7",
        "-1",
        "1e999",
        "null",
        "\"x\"",
        "\"\\ud800\"",
        "{\"class\": \"c\", \"desc\": \"d\"}",
        "{\"seconds\": 1, \"microseconds\": 2}",
    ]);
    let pairs = prop::collection::vec((key, value), 0..5);
    let scratch = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (pairs, scratch).prop_map(|(pairs, scratch)| {
        let pairs: Vec<_> =
            pairs.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
        let mut line = format!("{{{}}}", pairs.join(", ")).into_bytes();
        if let Some((at, byte)) = scratch {
            let at = at.index(line.len());
            line[at] = byte;
        }
        line
    })
}

proptest! {
    #[test]
    fn whatever_a_line_is_it_is_a_message_or_an_error(
        line in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), nearly()],
    ) {
        match decode(&line) {
            Ok(Message::Event(event)) => drop(event.parse::<serde_json::Value>()),
            Ok(_) => {}
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.is_ascii() && !text.contains(char::is_control), "{text}");
            }
        }
    }

    #[test]
    fn lines_come_out_as_they_went_in(
        lines in prop::collection::vec("[ -~]{1,40}", 0..20),
        cut in 1_usize..50,
    ) {
        let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        let chunks: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
        let taken = self::lines(&chunks).expect("short lines");
        let expected: Vec<_> =
            lines.iter().filter(|line| !line.trim().is_empty()).map(String::as_bytes).collect();
        prop_assert_eq!(taken, expected);
    }
}

fn lines(chunks: &[&[u8]]) -> Result<Vec<Vec<u8>>, TooLong> {
    let mut lines = Lines::default();
    let mut taken = Vec::new();
    for chunk in chunks {
        lines.push(chunk);
        while let Some(line) = lines.take()? {
            taken.push(line.to_vec());
        }
    }
    Ok(taken)
}

#[test]
fn lines_are_the_same_however_they_are_cut() {
    let text = b"{\"a\":1}\r\n\n  \n{}\nx\nrest";
    let whole = lines(&[text]).unwrap();
    assert_eq!(whole, [&b"{\"a\":1}\r"[..], b"{}", b"x"]);
    for cut in 0..text.len() {
        assert_eq!(lines(&[&text[..cut], &text[cut..]]).unwrap(), whole, "{cut}");
    }
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(lines(&bytes).unwrap(), whole);
}

#[test]
fn a_line_over_the_limit_is_refused() {
    let mut longest = vec![b'x'; LINE_MAX];
    longest.push(b'\n');
    assert_eq!(lines(&[&longest, b"{}\n"]).unwrap().len(), 2);
    longest.insert(0, b'x');
    assert_eq!(lines(&[&longest]), Err(TooLong));

    let mut endless = Lines::default();
    let mut fed = 0;
    let error = loop {
        endless.push(&[b'x'; 65536]);
        fed += 65536;
        if let Err(error) = endless.take() {
            break error;
        }
    };
    assert!(fed <= LINE_MAX + 65536, "{fed}");
    assert!(error.to_string().contains("1048576"), "{error}");
}

#[test]
fn each_kind_of_message_is_parsed() {
    let greeting = br#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;
    assert!(matches!(decode(greeting), Ok(Message::Greeting(_))));
    let event = br#"{"timestamp": {"seconds": 5, "microseconds": 7}, "event": "STOP"}"#;
    let Ok(Message::Event(event)) = decode(event) else { panic!("an event") };
    assert_eq!((event.name.as_str(), event.timestamp.unwrap().seconds), ("STOP", 5));
    let reply = br#"{"return": {"arch": "x86_64"}, "id": 7}"#;
    let Ok(Message::Reply { id: Some(id), result: Ok(value) }) = decode(reply) else {
        panic!("a reply")
    };
    assert_eq!((id.get(), value.get()), ("7", r#"{"arch": "x86_64"}"#));
    let refusal = br#"{"error": {"class": "GenericError", "desc": "no"}}"#;
    let Ok(Message::Reply { id: None, result: Err(refusal) }) = decode(refusal) else {
        panic!("a refusal")
    };
    assert_eq!(refusal.to_string(), "QEMU refuses: no");
}

#[test]
fn a_line_that_is_no_message_is_shown_escaped() {
    for (line, said) in [
        (
            &b"220 mail.example ESMTP\x1b[2J"[..],
            "sent '220 mail.example ESMTP\\x1b[2J', which is no message of QMP",
        ),
        (b"\xff\xfe", "sent '\\xff\\xfe', which is no message of QMP"),
        (b"{\"return\": {}", "no message of QMP"),
        (b"{}", "sent '{}', which"),
        (b"[]", "no message of QMP"),
        (b"7", "no message of QMP"),
        (b"{\"event\": 7}", "no message of QMP"),
        (b"{\"event\": \"A\", \"return\": {}}", "no message of QMP"),
        (b"{\"return\": {}, \"return\": {}}", "no message of QMP"),
        (b"{\"error\": \"no\"}", "no message of QMP"),
    ] {
        let error = decode(line).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let deep = "[".repeat(LINE_MAX);
    assert!(decode(deep.as_bytes()).unwrap_err().to_string().len() < 200);
    let deep = format!("{{\"return\": {}{}}}", "[".repeat(400_000), "]".repeat(400_000));
    let Ok(Message::Reply { result: Ok(value), .. }) = decode(deep.as_bytes()) else {
        panic!("a reply")
    };
    serde_json::from_str::<serde_json::Value>(value.get()).expect_err("too deep");
}
