//! What a server may do wrong before an export is entered.

use crate::{
    ALL, CAN, Case, ENTERING, INFO, LIST, PROBE, no_complaints,
    server::{
        ACK, Act, Asked, CONTEXT, EXTENDED, Framing, GO, LIST as LISTING, LIST_CONTEXTS, Manner,
        SERVER, SET_CONTEXTS, STRUCTURED, Script, UNSUP, context, info, listed, reply,
    },
};

/// With as much as a server may have.
const fn full(script: Script) -> Manner {
    Manner::new(Framing::Extended, script)
}

#[test]
fn what_is_no_server_is_told() {
    let mut wrong = Vec::new();
    for (name, script, says) in [
        (
            "an HTTP error",
            (|_, _| Act::Close(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())) as Script,
            "expected the magic of the server's greeting",
        ),
        (
            "the oldstyle greeting",
            |_, _| Act::Say(b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53".to_vec()),
            "oldstyle",
        ),
        ("half a magic", |_, _| Act::Close(b"NBDM".to_vec()), "waited for its greeting"),
        ("endless zeroes", |_, _| Act::Endless(vec![0; 4096]), "the server's greeting"),
        ("endless magics", |_, _| Act::Endless(b"NBDMAGIC".to_vec()), "the server's greeting"),
        ("nothing", |_, _| Act::Close(Vec::new()), "waited for its greeting"),
    ] {
        wrong.extend(Case { name, manner: full(script), commands: ALL, says }.complaints());
    }
    no_complaints(&wrong);
}

/// Does it to every option that is asked.
fn every(name: &'static str, script: Script, says: &'static str) {
    Case { name, manner: full(script), commands: ALL, says }.fails();
}

#[test]
fn answers_to_options_are_judged() {
    every(
        "another magic",
        |asked, honest| match asked {
            Asked::Greeting => Act::Say(honest),
            _ => Act::Say(b"a reply that is none".to_vec()),
        },
        "expected the magic of an option reply",
    );
    every(
        "the answer to another option",
        |asked, honest| match asked {
            Asked::Option { code, .. } => Act::Say(reply(code ^ 64, ACK, &[])),
            _ => Act::Say(honest),
        },
        "was answered where NBD_OPT_",
    );
    every(
        "a reply of 4 GiB",
        |asked, mut honest| {
            if let Asked::Option { .. } = asked {
                honest[16..20].fill(0xff);
            }
            Act::Say(honest)
        },
        "a reply of 4294967295 bytes announced",
    );
    every(
        "a reply that no option has",
        |asked, honest| match asked {
            Asked::Option { code, .. } => Act::Say(reply(*code, 99, &[])),
            _ => Act::Say(honest),
        },
        "ReplyCode(99) where it has no place",
    );
    every(
        "endless replies",
        |asked, honest| match asked {
            Asked::Option { code, .. } => Act::Endless(info(*code, 99, &[1; 9])),
            _ => Act::Say(honest),
        },
        "NBD_REP_INFO where it has no place",
    );
}

#[test]
fn what_is_endless_ends() {
    let mut wrong = Vec::new();
    for (name, script, commands, says) in [
        (
            "an endless list",
            (|asked, honest| match asked {
                Asked::Option { code: LISTING, .. } => Act::Endless(listed(b"disk", b"")),
                _ => Act::Say(honest),
            }) as Script,
            &[LIST][..],
            "NBD_OPT_LIST was answered with more",
        ),
        (
            "an endless list of long names",
            |asked, honest| match asked {
                Asked::Option { code: LISTING, .. } => {
                    Act::Endless(listed(&[b'n'; 4096], &[b'd'; 4096]))
                }
                _ => Act::Say(honest),
            },
            &[LIST],
            "NBD_OPT_LIST was answered with more",
        ),
        (
            "endless information",
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => {
                    Act::Endless(info(*code, 2, &[b'd'; 4096]))
                }
                _ => Act::Say(honest),
            },
            ALL,
            "has said more than 16777216 bytes",
        ),
        (
            "endless information in short",
            |asked, honest| match asked {
                Asked::Option { code: code @ (6 | 7), .. } => Act::Endless(info(*code, 99, b"")),
                _ => Act::Say(honest),
            },
            ALL,
            "was answered with more",
        ),
        (
            "endless contexts in a list",
            |asked, honest| match asked {
                Asked::Option { code: code @ LIST_CONTEXTS, .. } => {
                    Act::Endless(context(*code, 0, &[b'c'; 4096]))
                }
                _ => Act::Say(honest),
            },
            &[INFO, CAN, LIST, PROBE],
            "NBD_OPT_LIST_META_CONTEXT was answered with more",
        ),
        (
            "endless contexts selected",
            |asked, honest| match asked {
                Asked::Option { code: code @ SET_CONTEXTS, .. } => {
                    Act::Endless(context(*code, 9, b"x:y"))
                }
                _ => Act::Say(honest),
            },
            ENTERING,
            "NBD_OPT_SET_META_CONTEXT was answered with more",
        ),
        (
            "ten thousand exports with a thousand long contexts each",
            |asked, honest| match asked {
                Asked::Option { code: LISTING, .. } => {
                    let mut all = listed(b"e", b"").repeat(10_000);
                    all.extend(reply(LISTING, ACK, &[]));
                    Act::Say(all)
                }
                Asked::Option { code: code @ LIST_CONTEXTS, .. } => {
                    let mut all = context(*code, 0, &[b'c'; 1000]).repeat(1000);
                    all.extend(reply(*code, ACK, &[]));
                    Act::Say(all)
                }
                _ => Act::Say(honest),
            },
            &[LIST],
            "has said more than 16777216 bytes",
        ),
    ] {
        wrong.extend(Case { name, manner: full(script), commands, says }.complaints());
    }
    no_complaints(&wrong);
}

#[test]
fn lists_that_are_broken_are_refused() {
    let mut wrong = Vec::new();
    for (name, script, says) in [
        (
            "a name longer than its reply",
            (|asked, honest| match asked {
                Asked::Option { code: LISTING, .. } => {
                    Act::Say(reply(LISTING, SERVER, b"\0\0\xff\xffname"))
                }
                _ => Act::Say(honest),
            }) as Script,
            "65535 bytes needed where 4 are left",
        ),
        (
            "a reply that is a context",
            |asked, honest| match asked {
                Asked::Option { code: LISTING, .. } => {
                    Act::Say(reply(LISTING, CONTEXT, b"\0\0\0\0name"))
                }
                _ => Act::Say(honest),
            },
            "NBD_REP_META_CONTEXT where it has no place",
        ),
        (
            "a name with a NUL",
            |asked, honest| match asked {
                Asked::Option { code: LISTING, .. } => Act::Say(listed(b"na\0me", b"")),
                _ => Act::Say(honest),
            },
            "a string that is not UTF-8 without NUL",
        ),
        (
            "a name of 5000 bytes",
            |asked, honest| match asked {
                Asked::Option { code: LISTING, .. } => Act::Say(listed(&[b'n'; 5000], b"")),
                _ => Act::Say(honest),
            },
            "a string of 5000 bytes",
        ),
    ] {
        wrong.extend(Case { name, manner: full(script), commands: &[LIST], says }.complaints());
    }
    no_complaints(&wrong);
}

#[test]
fn framing_is_what_was_agreed() {
    let mut wrong = Vec::new();
    for (name, script, says) in [
        (
            "the end of GO where extended headers are agreed",
            (|asked, honest| match asked {
                Asked::Option { code: GO, .. } => Act::Say(reply(GO, UNSUP, &[])),
                _ => Act::Say(honest),
            }) as Script,
            "NBD_OPT_GO is unsupported where extended headers are",
        ),
        (
            "extended headers that are agreed with a gift",
            |asked, honest| match asked {
                Asked::Option { code: EXTENDED, .. } => {
                    Act::Say([honest, reply(STRUCTURED, ACK, &[])].concat())
                }
                _ => Act::Say(honest),
            },
            "NBD_OPT_STRUCTURED_REPLY was answered where",
        ),
    ] {
        wrong.extend(Case { name, manner: full(script), commands: ENTERING, says }.complaints());
    }
    no_complaints(&wrong);
}
