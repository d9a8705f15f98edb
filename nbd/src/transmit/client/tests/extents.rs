//! Block status: extents, by context.

use super::*;

/// `compact` for another context.
fn compact_of(id: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &compact(extents)[4..]].concat()
}

#[test]
fn extents_come_one_by_one() {
    let mut wide = 9_u32.to_be_bytes().to_vec();
    wide.extend_from_slice(&2_u32.to_be_bytes());
    for (len, flags) in [(1000_u64, 0_u64), (SIZE - 1000 - 512, 3)] {
        wide.extend_from_slice(&len.to_be_bytes());
        wide.extend_from_slice(&flags.to_be_bytes());
    }
    let short = compact(&[(1000, 0), (u32::try_from(SIZE).unwrap() - 1000 - 512, 3)]);
    for (framing, kind, body) in [
        (Framing::Structured, ChunkType::BLOCK_STATUS, &short),
        (Framing::Extended, ChunkType::BLOCK_STATUS, &short),
        (Framing::Extended, ChunkType::BLOCK_STATUS_EXT, &wide),
    ] {
        for step in [1, 9, 1000] {
            let mut client = client(framing);
            let cookie = client.extents(512, 2000, false, &mut vec![]).unwrap();
            let bytes = chunk(framing, true, kind, cookie, 512, body);
            let got = feed(&mut client, &bytes, step).unwrap();
            assert_eq!(got.extents, [(512, 1000, 0), (1512, SIZE - 1512, 3)]);
            assert_eq!(got.done, [(cookie, Ok(()))]);
        }
    }
}

#[test]
fn the_extents_of_every_agreed_context_come_once_in_any_order() {
    let (one, two) = (compact(&[(60, 0), (40, 3)]), compact_of(4, &[(100, 1)]));
    let stranger = compact_of(5, &[(100, 1)]);
    for (bodies, fits) in [
        (vec![&one, &two], true),
        (vec![&two, &one], true),
        (vec![&one], false),
        (vec![&one, &two, &one], false),
        (vec![&one, &one], false),
        (vec![&one, &two, &stranger], false),
    ] {
        let mut client = client(Framing::Structured);
        client.terms.contexts.push(AgreedContext::new(4, "qemu:dirty-bitmap:backup"));
        let cookie = client.extents(512, 100, false, &mut vec![]).unwrap();
        let mut bytes = Vec::new();
        for (index, body) in bodies.iter().enumerate() {
            let done = index + 1 == bodies.len();
            let kind = ChunkType::BLOCK_STATUS;
            bytes.extend(chunk(Framing::Structured, done, kind, cookie, 512, body));
        }
        let got = feed(&mut client, &bytes, 7);
        assert_eq!(got.is_ok(), fits, "{bodies:?}: {got:?}");
        if let Ok(got) = got {
            assert_eq!(got.extents.len(), 3);
            assert_eq!(got.contexts.iter().filter(|&&context| context == 9).count(), 2);
            assert_eq!(got.done, [(cookie, Ok(()))]);
        }
    }
}

#[test]
fn a_chunk_of_too_many_extents_is_refused_by_its_header() {
    let mut client = client(Framing::Structured);
    let cookie = client.extents(0, SIZE, false, &mut vec![]).unwrap();
    let len = usize::try_from(EXTENTS_LIMIT).unwrap() + 4;
    let kind = ChunkType::BLOCK_STATUS;
    let bytes = chunk(Framing::Structured, true, kind, cookie, 0, &vec![0; len]);
    assert!(client.step(&bytes[..20]).is_err());
}

#[test]
fn replies_that_do_not_match_a_block_status_are_violations() {
    let other = compact_of(8, &[(100, 0)]);
    let size = u32::try_from(SIZE).unwrap();
    for (why, one, bodies) in [
        ("no extent", false, vec![compact(&[])]),
        ("half an extent", false, vec![vec![0; 8]]),
        ("an empty extent", false, vec![compact(&[(0, 0)])]),
        ("another context", false, vec![other]),
        ("two chunks", false, vec![compact(&[(50, 0)]), compact(&[(50, 0)])]),
        ("an extent too many", false, vec![compact(&[(100, 0), (1, 3)])]),
        ("past the export", false, vec![compact(&[(size - 511, 0)])]),
        ("more than one", true, vec![compact(&[(50, 0), (50, 3)])]),
        ("one too long", true, vec![compact(&[(101, 0)])]),
    ] {
        let mut client = client(Framing::Structured);
        let cookie = client.extents(512, 100, one, &mut vec![]).unwrap();
        let mut bytes = Vec::new();
        for (index, body) in bodies.iter().enumerate() {
            let done = index + 1 == bodies.len();
            let kind = ChunkType::BLOCK_STATUS;
            bytes.extend(chunk(Framing::Structured, done, kind, cookie, 512, body));
        }
        assert!(feed(&mut client, &bytes, 10_000).is_err(), "{why}");
    }
    for framing in [Framing::Structured, Framing::Extended] {
        let mut client = client(framing);
        let cookie = client.extents(512, 100, false, &mut vec![]).unwrap();
        let bytes = chunk(framing, true, ChunkType::NONE, cookie, 512, &[]);
        assert!(feed(&mut client, &bytes, 10_000).is_err(), "success without a status");
    }
}
