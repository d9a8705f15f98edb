//! Whole conversations, cut in every way. The answers must not depend on the cuts.

use nbd::{negotiate::Server, wire::OptionCode};
use proptest::{collection::vec, prelude::*};

use crate::talk::{Left, Talk, contexts, info, option_bytes};

fn option(option: OptionCode, data: &[u8]) -> Vec<u8> {
    let mut bytes = option_bytes(option, u32::try_from(data.len()).unwrap());
    bytes.extend_from_slice(data);
    bytes
}

/// Everything that a client may send before it enters an export, and more.
fn conversation() -> Vec<u8> {
    [
        3_u32.to_be_bytes().to_vec(),
        option(OptionCode::STARTTLS, b""),
        option(OptionCode::SET_META_CONTEXT, &contexts("", &["base:allocation"])),
        option(OptionCode::STRUCTURED_REPLY, b""),
        option(OptionCode(4711), &[1; 300]),
        option(OptionCode::LIST, b""),
        option(OptionCode::LIST, b"data"),
        option(OptionCode::GO, &[0; 8193]),
        option(OptionCode::LIST_META_CONTEXT, &contexts("disk", &["base:"])),
        option(OptionCode::SET_META_CONTEXT, &contexts("disk", &["base:allocation"])),
        option(OptionCode::INFO, &info("nope", &[1, 2])),
        option(OptionCode::GO, &info("disk", &[1, 2, 3])),
    ]
    .concat()
}

fn at_once() -> Vec<u8> {
    let mut talk = Talk::greeted();
    talk.say(&conversation());
    assert!(talk.done().terms().context("base:allocation").is_some());
    talk.sent
}

#[test]
fn one_byte_at_a_time_gets_the_same_answers() {
    let mut talk = Talk::greeted();
    for byte in conversation() {
        talk.say(&[byte]);
        assert!(talk.pending.len() < Server::INPUT);
    }
    assert_eq!(talk.sent, at_once());
    assert_eq!(talk.done().export_name(), "disk");
}

#[test]
fn at_every_offset_a_client_may_leave() {
    let bytes = conversation();
    let all = at_once();
    for cut in 0..bytes.len() {
        let mut talk = Talk::greeted();
        talk.say(&bytes[..cut]);
        assert!(matches!(talk.left, Some(Left::Open(_))), "at {cut}");
        assert!(all.starts_with(&talk.sent), "at {cut}");
    }
}

proptest! {
    #[test]
    fn any_cuts_get_the_same_answers(cuts in vec(1_usize..700, 1..60)) {
        let bytes = conversation();
        let mut talk = Talk::greeted();
        let mut rest = &*bytes;
        for cut in cuts.into_iter().cycle() {
            let (head, tail) = rest.split_at(cut.min(rest.len()));
            talk.say(head);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(talk.sent, at_once());
    }

    #[test]
    fn garbage_after_the_flags_never_panics_and_is_consumed_or_ends(
        options in vec((0_u32..13, vec(any::<u8>(), 0..200)), 0..20),
    ) {
        let mut talk = Talk::new();
        for (code, data) in options {
            talk.say(&option(OptionCode(code), &data));
            let open = matches!(talk.left, Some(Left::Open(_)));
            prop_assert!(!open || talk.pending.is_empty());
        }
    }
}
