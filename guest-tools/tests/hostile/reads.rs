//! What a server may do wrong with the bytes of a read.

use crate::{
    CHUNKED, COPY_TO, MAP, READING, TEST, TRIM, WRITE as WRITES, Wrong, ZERO, fail,
    server::{Act, Asked, DATA, DONE, HOLE, NONE, READ, Request, chunk, head, pattern},
};

/// The whole read in one chunk that is the last.
fn data(request: &Request, at: u64, len: u64) -> Vec<u8> {
    let payload = [&at.to_be_bytes()[..], &pattern(at, len)].concat();
    chunk(request, DONE, DATA, &payload)
}

fn hole(request: &Request, flags: u16, at: u64, len: u32) -> Vec<u8> {
    chunk(request, flags, HOLE, &[&at.to_be_bytes()[..], &len.to_be_bytes()].concat())
}

#[test]
fn bytes_come_once_and_all_of_them() {
    fail(&[
        Wrong(
            "a done without bytes",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    Act::Say(chunk(request, DONE, NONE, &[]))
                }
                _ => Act::Say(honest),
            },
            READING,
            "success, though bytes of the read are missing",
        ),
        Wrong(
            "a byte too few",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    Act::Say(data(request, request.at, request.len - 1))
                }
                _ => Act::Say(honest),
            },
            READING,
            "success, though bytes of the read are missing",
        ),
        Wrong(
            "a byte too many",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    Act::Say(data(request, request.at, request.len + 1))
                }
                _ => Act::Say(honest),
            },
            READING,
            "a chunk that does not belong to the request, or its length",
        ),
        Wrong(
            "bytes from behind the read",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    Act::Say(data(request, request.at + 1, request.len))
                }
                _ => Act::Say(honest),
            },
            READING,
            "bytes past the end of the read",
        ),
        Wrong(
            "bytes at 2^64-1",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    Act::Say(chunk(request, DONE, DATA, &[0xff; 64]))
                }
                _ => Act::Say(honest),
            },
            READING,
            "bytes past the end of the read",
        ),
        Wrong(
            "bytes twice",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    let mut first = data(request, request.at, request.len);
                    first[5] &= 0xfe;
                    Act::Say([first, data(request, request.at, request.len)].concat())
                }
                _ => Act::Say(honest),
            },
            READING,
            "bytes that have come already",
        ),
    ]);
}

#[test]
fn holes_and_chunks_are_judged() {
    fail(&[
        Wrong(
            "a hole over bytes",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    let mut first = data(request, request.at, request.len);
                    first[5] &= 0xfe;
                    Act::Say([first, hole(request, DONE, request.at + 8, 8)].concat())
                }
                _ => Act::Say(honest),
            },
            READING,
            "bytes that have come already",
        ),
        Wrong(
            "a hole of 4 GiB",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    Act::Say(hole(request, DONE, request.at, u32::MAX))
                }
                _ => Act::Say(honest),
            },
            READING,
            "bytes past the end of the read",
        ),
        Wrong(
            "holes of no bytes, without end",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    Act::Endless(hole(request, 0, request.at, 0))
                }
                _ => Act::Say(honest),
            },
            READING,
            "a chunk of no bytes",
        ),
        Wrong(
            "a chunk of 2^31 bytes",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    Act::Endless(head(request, 0, DATA, 1 << 31))
                }
                _ => Act::Say(honest),
            },
            READING,
            "a chunk that does not belong to the request, or its length",
        ),
        Wrong(
            "bytes for what is no read",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command != READ => {
                    Act::Say(chunk(request, DONE, DATA, &[0; 16]))
                }
                _ => Act::Say(honest),
            },
            &[MAP, WRITES, ZERO, TRIM, COPY_TO, TEST],
            "a chunk that does not belong to the request, or its length",
        ),
    ]);
}
