//! What a server may say wrong of its extents.

use crate::{
    ASKING, CHUNKED, Wrong, fail,
    server::{
        Act, Asked, DONE, EXTENTS, Framing, NONE, Request, STATUS, WIDE_EXTENTS, chunk, head,
        status,
    },
};

/// Status, and its end.
fn extents(request: &Request, found: &[(u64, u32)]) -> Act {
    let mut bytes = status(request, found);
    if request.extended {
        bytes.extend(chunk(request, DONE, NONE, &[]));
    }
    Act::Say(bytes)
}

#[test]
fn extents_are_judged() {
    fail(&[
        Wrong(
            "an extent of no bytes",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == STATUS => {
                    extents(request, &[(0, 0), (512, 0)])
                }
                _ => Act::Say(honest),
            },
            ASKING,
            "an extent of no bytes",
        ),
        Wrong(
            "no extents",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == STATUS => extents(request, &[]),
                _ => Act::Say(honest),
            },
            ASKING,
            "a chunk that does not belong to the request, or its length",
        ),
        Wrong(
            "a done without extents",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == STATUS => {
                    Act::Say(chunk(request, DONE, NONE, &[]))
                }
                _ => Act::Say(honest),
            },
            ASKING,
            "success, though the status is missing",
        ),
        Wrong(
            "extents past the end",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == STATUS => {
                    extents(request, &[(0xffff_ffff, 0)])
                }
                _ => Act::Say(honest),
            },
            ASKING,
            "an extent past the end of the export",
        ),
        Wrong(
            "an extent of 2^64-1 bytes",
            &[Framing::Extended],
            |asked, honest| match asked {
                Asked::Request(request) if request.command == STATUS => {
                    extents(request, &[(512, 0), (u64::MAX, 0)])
                }
                _ => Act::Say(honest),
            },
            ASKING,
            "an extent past the end of the export",
        ),
        Wrong(
            "an extent that begins behind the request",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == STATUS => {
                    extents(request, &[(request.len, 0), (512, 0)])
                }
                _ => Act::Say(honest),
            },
            ASKING,
            "an extent that begins past the end of the request",
        ),
    ]);
}

#[test]
fn chunks_of_extents_are_judged() {
    fail(&[
        Wrong(
            "the extents of another context",
            CHUNKED,
            |asked, mut honest| {
                if let Asked::Request(request) = asked
                    && request.command == STATUS
                {
                    honest[if request.extended { 32 } else { 20 }] ^= 1;
                }
                Act::Say(honest)
            },
            ASKING,
            "the status of a context that was not selected",
        ),
        Wrong(
            "a chunk of extents of 2^31 bytes",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == STATUS => {
                    let kind = if request.extended { WIDE_EXTENTS } else { EXTENTS };
                    Act::Endless(head(request, 0, kind, (1 << 31) + 8))
                }
                _ => Act::Say(honest),
            },
            ASKING,
            "more extents in one chunk than are taken",
        ),
        Wrong(
            "extents in two chunks",
            CHUNKED,
            |asked, honest| match asked {
                Asked::Request(request) if request.command == STATUS => {
                    let mut first = status(request, &[(512, 0)]);
                    first[5] &= 0xfe;
                    Act::Say(first.repeat(2))
                }
                _ => Act::Say(honest),
            },
            ASKING,
            "the status of a context that has come already",
        ),
        Wrong(
            "a count of extents that is not theirs",
            &[Framing::Extended],
            |asked, mut honest| {
                if let Asked::Request(request) = asked
                    && request.command == STATUS
                {
                    honest[36] = 0x7f;
                }
                Act::Say(honest)
            },
            ASKING,
            "a count of extents that disagrees",
        ),
    ]);
}
