//! Replies that do not belong to what was asked, or to what was agreed.

use crate::{
    BENCH, COPY_FROM, COPY_TO, EACH, ENTERING, READ as READS, READING, TEST, TRIM, WRITE as WRITES,
    Words, Wrong, ZERO, fail,
    server::{Act, Asked, DONE, Framing, NONE, READ, chunk, pattern, simple},
};

#[test]
fn replies_belong_to_requests() {
    fail(&[
        Wrong(
            "another magic",
            EACH,
            |asked, honest| match asked {
                Asked::Request(_) => Act::Say(vec![0x5a; 64]),
                _ => Act::Say(honest),
            },
            ENTERING_ALWAYS,
            "expected the magic of a reply, got 0x5a5a5a5a",
        ),
        Wrong(
            "a cookie that nobody gave",
            EACH,
            |asked, mut honest| {
                if let Asked::Request(_) = asked {
                    honest[8] ^= 1;
                }
                Act::Say(honest)
            },
            ENTERING_ALWAYS,
            "no such request is outstanding",
        ),
        Wrong(
            "an answer before any question",
            &[Framing::Simple],
            |asked, honest| match asked {
                Asked::Option { code: 7, .. } => Act::Say([honest, simple(1, 0)].concat()),
                _ => Act::Say(honest),
            },
            &[READS, WRITES, ZERO, TRIM, COPY_FROM, COPY_TO],
            "no such request is outstanding",
        ),
        Wrong(
            "each answer twice",
            EACH,
            |asked, honest| match asked {
                Asked::Request(_) => Act::Say(honest.repeat(2)),
                _ => Act::Say(honest),
            },
            &[WRITES, ZERO, TRIM, COPY_TO, TEST, BENCH],
            "no such request is outstanding",
        ),
        Wrong(
            "a chunk where simple replies are agreed",
            &[Framing::Simple],
            |asked, honest| match asked {
                Asked::Request(request) => Act::Say(chunk(request, DONE, NONE, &[])),
                _ => Act::Say(honest),
            },
            &[READS, WRITES, ZERO, TRIM, COPY_FROM, COPY_TO, TEST, BENCH],
            "expected the magic of a reply",
        ),
        Wrong(
            "a simple reply to a read where structured ones are agreed",
            &[Framing::Structured],
            |asked, honest| match asked {
                Asked::Request(request) if request.command == READ => {
                    Act::Say([simple(request.cookie, 0), pattern(request.at, request.len)].concat())
                }
                _ => Act::Say(honest),
            },
            READING,
            "a simple reply to a read",
        ),
        Wrong(
            "a simple reply where extended ones are agreed",
            &[Framing::Extended],
            |asked, honest| match asked {
                Asked::Request(request) => Act::Say(simple(request.cookie, 0)),
                _ => Act::Say(honest),
            },
            ENTERING,
            "expected the magic of a reply",
        ),
        Wrong(
            "the offset of another request",
            &[Framing::Extended],
            |asked, mut honest| {
                if let Asked::Request(_) = asked {
                    honest[23] ^= 64;
                }
                Act::Say(honest)
            },
            ENTERING,
            "the offset of another request",
        ),
    ]);
}

/// Whatever was agreed: `map` needs a context.
const ENTERING_ALWAYS: &[Words] = &[READS, WRITES, ZERO, TRIM, COPY_FROM, COPY_TO, TEST, BENCH];
