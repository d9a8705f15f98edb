//! What a server may do wrong where it fails.

use crate::{
    CHUNKED, COPY_FROM, COPY_TO, Case, EACH, ENTERING, MAP, READ as READS, READING, TEST, TRIM,
    WRITE as WRITES, Words, Wrong, ZERO, fail,
    server::{
        Act, Asked, DATA, DONE, ERROR, ERROR_AT, FLUSH, Framing, Manner, READ, Request, STATUS,
        Script, WRITE, chunk, head, simple,
    },
};

fn failure(request: &Request, flags: u16, errno: u32, text: &[u8]) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("short");
    chunk(request, flags, ERROR, &[&errno.to_be_bytes()[..], &len.to_be_bytes(), text].concat())
}

/// What changes, and is answered with a word.
const CHANGING: &[Words] = &[WRITES, ZERO, TRIM, COPY_TO, TEST];

#[test]
fn failures_are_told_and_end() {
    fail(&[
        Wrong(
            "an error",
            EACH,
            |asked, honest| match asked {
                Asked::Request(request) if request.extended => {
                    Act::Say(failure(request, DONE, 5, b""))
                }
                Asked::Request(request) if request.command != READ && request.command != STATUS => {
                    Act::Say(simple(request.cookie, 5))
                }
                _ => Act::Say(honest),
            },
            CHANGING,
            "the server answered EIO",
        ),
        Wrong(
            "an error to a read in the middle of its bytes",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    let wrong = [&request.at.to_be_bytes()[..], &[0xee; 512]].concat();
                    let bytes = chunk(request, 0, DATA, &wrong);
                    Act::Say([bytes, failure(request, DONE, 5, b"gone")].concat())
                }
                _ => Act::Say(honest),
            },
            READING,
            "the server answered EIO: gone",
        ),
        Wrong(
            "an error number that nobody knows",
            EACH,
            |asked, honest| match asked {
                Asked::Request(request) if request.extended => {
                    Act::Say(failure(request, DONE, 0xdead_beef, b""))
                }
                Asked::Request(request) if request.command != READ && request.command != STATUS => {
                    Act::Say(simple(request.cookie, 0xdead_beef))
                }
                _ => Act::Say(honest),
            },
            CHANGING,
            "the server answered Errno(3735928559)",
        ),
        Wrong(
            "an error of number 0",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) => Act::Say(failure(request, DONE, 0, b"all is well")),
                _ => Act::Say(honest),
            },
            ENTERING,
            "an error without a code",
        ),
    ]);
}

#[test]
fn errors_that_break_the_protocol_end_the_connection() {
    fail(&[
        Wrong(
            "an error text of 4097 bytes",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) => Act::Say(failure(request, DONE, 5, &[b'x'; 4097])),
                _ => Act::Say(honest),
            },
            ENTERING,
            "a text over 4096 bytes",
        ),
        Wrong(
            "an error chunk of 2^31 bytes",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) => Act::Endless(head(request, DONE, ERROR, 1 << 31)),
                _ => Act::Say(honest),
            },
            ENTERING,
            "an error chunk of an impossible length",
        ),
        Wrong(
            "an error text that is longer than its chunk",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) => {
                    Act::Say(chunk(request, DONE, ERROR, b"\0\0\0\x05\xff\xfftext"))
                }
                _ => Act::Say(honest),
            },
            ENTERING,
            "an error text that is longer than its chunk",
        ),
        Wrong(
            "an error at an offset that was not asked for",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if matches!(request.command, READ | STATUS | WRITE) => {
                    let payload = b"\0\0\0\x05\0\0\xff\xff\xff\xff\xff\xff\xff\xff";
                    Act::Say(chunk(request, DONE, ERROR_AT, payload))
                }
                _ => Act::Say(honest),
            },
            &[READS, MAP, COPY_FROM, WRITES, COPY_TO],
            "an error at an offset outside the request",
        ),
        Wrong(
            "endless errors for one request",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) => Act::Endless(failure(request, 0, 5, b"again")),
                _ => Act::Say(honest),
            },
            ENTERING,
            "more errors than are taken",
        ),
    ]);
}

#[test]
fn a_flush_that_fails_is_a_copy_that_fails() {
    for framing in EACH {
        let script: Script = |asked, honest| match asked {
            Asked::Request(request) if request.command == FLUSH && request.extended => {
                Act::Say(failure(request, DONE, 28, b"full"))
            }
            Asked::Request(request) if request.command == FLUSH => {
                Act::Say(simple(request.cookie, 28))
            }
            _ => Act::Say(honest),
        };
        let manner = Manner::new(*framing, script);
        let says = "the server answered ENOSPC";
        let commands: &[Words] = &[WRITES, ZERO, TRIM, COPY_TO];
        Case { name: "a flush that fails", manner, commands, says }.fails();
    }
    let manner = Manner::new(Framing::Structured, |asked, honest| match asked {
        Asked::Request(request) if request.command == FLUSH => Act::Close(Vec::new()),
        _ => Act::Say(honest),
    });
    let (says, commands): (_, &[Words]) = ("closed the connection", &[WRITES, ZERO, TRIM, COPY_TO]);
    Case { name: "a death at the flush", manner, commands, says }.fails();
}
