//! What a server may say of an export that cannot be, or does not matter.

use crate::{
    ALL, Case, INFO, READ, Words, judge, no_complaints, run,
    server::{ACK, Act, Asked, FLAGS, Framing, Manner, Script, Server, info, reply, told},
};

/// With as much as a server may have.
const fn full(script: Script) -> Manner {
    Manner::new(Framing::Extended, script)
}

#[test]
fn an_export_that_cannot_be_is_refused() {
    let mut wrong = Vec::new();
    for (name, script, says) in [
        (
            "2^63 bytes",
            (|asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => Act::Say(told(*code, 1 << 63, FLAGS)),
                _ => Act::Say(honest),
            }) as Script,
            "an export of 9223372036854775808 bytes",
        ),
        (
            "2^64-1 bytes",
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => {
                    Act::Say(told(*code, u64::MAX, FLAGS))
                }
                _ => Act::Say(honest),
            },
            "an export of 18446744073709551615 bytes",
        ),
        (
            "no flags at all",
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => Act::Say(told(*code, 4096, 0)),
                _ => Act::Say(honest),
            },
            "NBD_FLAG_HAS_FLAGS",
        ),
        (
            "an end before the size",
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => Act::Say(reply(*code, ACK, &[])),
                _ => Act::Say(honest),
            },
            "NBD_INFO_EXPORT",
        ),
        (
            "a size that is cut",
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => Act::Say(info(*code, 0, &[0; 5])),
                _ => Act::Say(honest),
            },
            "NBD_REP_INFO that cannot be read",
        ),
        (
            "a size with more behind it",
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => Act::Say(info(*code, 0, &[0; 11])),
                _ => Act::Say(honest),
            },
            "NBD_REP_INFO that cannot be read",
        ),
        (
            "a name that is no UTF-8",
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => {
                    Act::Say([info(*code, 1, b"a\xff"), told(*code, 4096, FLAGS)].concat())
                }
                _ => Act::Say(honest),
            },
            "a string that is not UTF-8",
        ),
        (
            "a description of 5000 bytes",
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => {
                    Act::Say([info(*code, 2, &[b'd'; 5000]), told(*code, 4096, FLAGS)].concat())
                }
                _ => Act::Say(honest),
            },
            "a string of 5000 bytes",
        ),
    ] {
        wrong.extend(Case { name, manner: full(script), commands: ALL, says }.complaints());
    }
    no_complaints(&wrong);
}

/// What is wrong and harms nobody.
#[test]
fn what_does_not_matter_is_let_be() {
    for (name, size, script, words, prints) in [
        (
            "every flag there is",
            4096,
            (|asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => Act::Say(told(*code, 4096, 0xffff)),
                _ => Act::Say(honest),
            }) as Script,
            INFO,
            "is_read_only: true",
        ),
        ("no bytes", 0, |_, honest| Act::Say(honest), INFO, "export-size: 0"),
        ("no bytes", 0, |_, honest| Act::Say(honest), READ, ""),
        ("no bytes", 0, |_, honest| Act::Say(honest), &["map", "URI", "--totals"], ""),
        ("no bytes", 0, |_, honest| Act::Say(honest), &["map", "URI", "--json"], "[]"),
        ("no bytes", 0, |_, honest| Act::Say(honest), &["copy", "URI", "DIR/copied"], ""),
        (
            "2^63-1 bytes",
            i64::MAX as u64,
            |_, honest| Act::Say(honest),
            INFO,
            "export-size: 9223372036854775807",
        ),
        (
            "2^63-1 bytes",
            i64::MAX as u64,
            |_, honest| Act::Say(honest),
            &["map", "URI", "--totals"],
            "9223372036854775807 100.0%",
        ),
        (
            "2^63-1 bytes",
            i64::MAX as u64,
            |_, honest| Act::Say(honest),
            &["read", "URI", "--offset", "9223372036854775800"],
            "\x7f\u{fffd}",
        ),
        (
            "block sizes of zero",
            4096,
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => {
                    Act::Say([info(*code, 3, &[0; 12]), honest].concat())
                }
                _ => Act::Say(honest),
            },
            INFO,
            "can_zero: true",
        ),
        (
            "block sizes that are no powers of two",
            4096,
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => {
                    let blocks = [3_u32, 5000, 70_001].map(u32::to_be_bytes).concat();
                    Act::Say([info(*code, 3, &blocks), honest].concat())
                }
                _ => Act::Say(honest),
            },
            READ,
            "",
        ),
        (
            "a preferred block of 2 GiB",
            4096,
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => {
                    let blocks = [1_u32, 1 << 31, u32::MAX].map(u32::to_be_bytes).concat();
                    Act::Say([info(*code, 3, &blocks), honest].concat())
                }
                _ => Act::Say(honest),
            },
            &["copy", "URI", "DIR/copied"],
            "",
        ),
        (
            "every flag in its greeting",
            4096,
            |asked, honest| match asked {
                Asked::Greeting => Act::Say(b"NBDMAGICIHAVEOPT\xff\xff".to_vec()),
                _ => Act::Say(honest),
            },
            INFO,
            "export-size: 4096",
        ),
    ] {
        let manner = Manner { size, ..full(script) };
        let server = Server::start(manner);
        let output = run(&server, words);
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?} of a server with {name}: {why}");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(printed.contains(prints), "{words:?} of a server with {name}: {printed}");
    }
}

/// The first connection says 4 MiB, the others what they like.
const CHANGED: Script = |asked, honest| match asked {
    Asked::Option { code: code @ (6 | 7), nth } if *nth > 0 => {
        let size = (4 << 20) + if nth % 2 == 1 { 512 } else { 4096 };
        Act::Say(told(*code, size, FLAGS))
    }
    _ => Act::Say(honest),
};

#[test]
fn an_export_that_changes_is_refused() {
    let manner = Manner { size: 4 << 20, ..full(CHANGED) };
    for words in [
        &["copy", "--quiet", "URI", "DIR/copied", "--connections", "2", "--request-size", "64k"][..],
        &["copy", "--quiet", "URI", "DIR/copied", "--connections", "1", "--verify"],
        &["copy", "--quiet", "DIR/given", "URI", "--connections", "1", "--verify"],
        &["test", "URI", "--destroy"],
        &["bench", "URI", "--time", "50ms"],
    ] {
        let server = Server::start(manner);
        let line = judge(words, &run(&server, words));
        let line = line.unwrap_or_else(|why| panic!("{words:?}: {why}"));
        assert!(line.contains("and had 4194304 on the connection before"), "{words:?}: {line}");
    }
}

/// Bytes that are others each time: an honest check finds it.
#[test]
fn a_copy_that_is_not_what_is_read_later_is_no_verified_one() {
    let script: Script = |asked, mut honest| {
        if let Asked::Request(request) = asked
            && request.command == 0
        {
            let last = honest.len() - 1;
            honest[last] ^= 1 << (request.nth % 8);
        }
        Act::Say(honest)
    };
    let manner = Manner::new(Framing::Simple, script);
    let commands: &[Words] = &[
        &["copy", "--quiet", "--verify", "URI", "DIR/copied"],
        &["copy", "--quiet", "--verify", "DIR/given", "URI"],
    ];
    Case { name: "other bytes each time", manner, commands, says: "differ" }.fails();
}
