use proptest::prelude::*;

use super::{super::content::Stretch, *};

fn variables(name: &str) -> Option<String> {
    match name {
        "a" => Some("1 $b".into()),
        "b" => Some("2".into()),
        "loop" => Some("$loop".into()),
        _ => None,
    }
}

/// The bytes, if they are few.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let content = parse(text, &variables).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; usize::try_from(content.len()).unwrap()];
    let len = content.len();
    content
        .write((0, len), 0, false, &mut |at, stretch| {
            let at = usize::try_from(at).unwrap();
            match stretch {
                Stretch::Bytes(some) => bytes[at..at + some.len()].copy_from_slice(some),
                Stretch::Zeroes(len) => bytes[at..at + usize::try_from(len).unwrap()].fill(0),
            }
            Ok::<_, ()>(())
        })
        .unwrap();
    Ok(bytes)
}

#[test]
fn expressions_are_what_the_manual_says() {
    for (text, expected) in [
        ("", &b""[..]),
        ("1 0x10 010 # 7\n 9", b"\x01\x10\x08\x09"),
        ("1 @4 @0", b"\x01\0\0\0"),
        ("@^4 1 @^4", b"\x01\0\0\0"),
        ("1 @+1 2 @-1 3", b"\x01\0\x03"),
        ("0 1 2 3 @0 @+2 9", b"\0\x01\x09\x03"),
        ("(1 2)*2 3*2", b"\x01\x02\x01\x02\x03\x03"),
        ("1*2*3", b"\x01\x01\x01\x01\x01\x01"),
        ("(1 2 3)[1:] (1 2 3) [:1] (1 2 3)[1:2]*2", b"\x02\x03\x01\x02\x02"),
        ("(@4 1)[3:]", b"\0\x01"),
        ("(1 2)->\\a \\a (\\a 3 -> \\a \\a)*2 \\a", b"\x01\x02\x01\x02\x03\x01\x02\x03\x01\x02"),
        ("\"a\\x41\\101\\n\\\"\\\\\"", b"aAA\n\"\\"),
        ("le16:0x102 be16:0x102 le32:1 be64:1", b"\x02\x01\x01\x02\x01\0\0\0\0\0\0\0\0\0\0\x01"),
        ("$a*2", b"\x01\x02\x01\x02"),
        ("<(printf 'a(b)')[1:]*2", b"(b)(b)"),
        ("<(while :; do echo x; done)[:4]", b"x\nx\n"),
        ("</dev/zero[:3] 1", b"\0\0\0\x01"),
        ("( 5*4 @1 (0 @+1 0) )", b"\x05\0\0\0"),
        ("1*0 2", b"\x02"),
    ] {
        assert_eq!(bytes(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn an_error_names_its_place() {
    for (text, expected) in [
        (
            "1 256",
            "at line 1, character 3: '256' is not a number that fits here (a byte: 0 to 255)",
        ),
        ("1\n  -1", "at line 2, character 3: '-' is no part of this language"),
        ("1M", "'1M' is not a number"),
        ("le16:0x12345", "'0x12345' is not a number that fits here (a word"),
        ("1 @-2", "@-2 goes before the beginning"),
        ("@^3", "an alignment is a power of two"),
        ("*3", "no expression before '*'"),
        ("@4 *3", "no expression before '*'"),
        ("(1 2 3)[2:1]", "[2:1] is no part of 3 bytes"),
        ("(1 2 3)[:10]", "[0:10] is no part of 3 bytes"),
        ("1[2]", "a slice is [FROM:TO]"),
        ("\"abc", "this string has no end"),
        ("\"\\q\"", "\\q is not known in a string"),
        ("(1", "a '(' here has no ')'"),
        ("1)", "a ')' too many"),
        ("\\x", "\\x is not assigned"),
        ("1 -> x", "a name is a backslash"),
        ("$nosuch", "$nosuch is neither a parameter nor in the environment"),
        ("$loop", "nested too deeply"),
        ("< ", "a '<' is followed by"),
        ("</nonexistent", "the file /nonexistent cannot be read"),
        ("<(exit 3)", "the command (exit 3) failed: exit status: 3"),
        ("<(exit", "a '(' here has no ')'"),
        ("(1*0x7fffffffffffffff 2)", "longer than 2^63 - 1 bytes"),
        ("(1 2)*0x7fffffffffffffff", "longer than 2^63 - 1 bytes"),
        ("@0x7fffffffffffffff @+1", "longer than 2^63 - 1 bytes"),
        ("caf\u{e9}", "'c' is no part of this language"),
    ] {
        let error = bytes(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(bytes("$a[9:]").unwrap_err().contains("line 1, character 3"));
    let deep = "(".repeat(100_000);
    assert!(bytes(&deep).unwrap_err().contains("nested too deeply"));
    let chain = format!("1{}", "*1".repeat(100_000));
    assert!(bytes(&chain).unwrap_err().contains("nested too deeply"));
}

#[test]
fn a_little_text_can_be_a_large_disk_of_zeroes() {
    let content = parse("((0*1000000)*1000000)*1000000 @^512 1", &variables).unwrap();
    assert_eq!(content.len(), 1_000_000_000_000_000_001);
    let mut calls = 0;
    let mut count = |_, _: Stretch<'_>| {
        calls += 1;
        Ok::<_, ()>(())
    };
    content.write((0, content.len()), 0, false, &mut count).unwrap();
    assert!(calls <= 4, "{calls}");
    // A slice is checked too: it is empty.
    let content = parse("(@1000 1)[:999]*1000000000000000", &variables).unwrap();
    content.write((0, content.len()), 0, false, &mut |_, _| Err(())).unwrap();
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[ 0-9a-fx@^+*()\\[\\]:>\\\\\"$#-]{0,60}") {
        // The characters of commands and files are left out.
        drop(parse(&text, &variables));
    }

    #[test]
    fn any_characters_do_not_either(text in "[^<]{0,60}") {
        drop(parse(&text, &variables));
    }
}
