//! STARTTLS, server's end: the three modes of "Server-side requirements", and the state that is discarded.

use nbd::{
    Framing, Violation,
    negotiate::{Ending, Tls},
    wire::{OptionCode, ReplyCode},
};

use crate::talk::{FIXED, Left, NO_ZEROES, SIZE, Talk, codes, contexts, info, option_bytes};

const WITH_TLS: [Tls; 2] = [Tls::On, Tls::Require];

fn talk(tls: Tls) -> Talk {
    Talk::with_tls(FIXED | NO_ZEROES, tls)
}

/// A conversation after the handshake.
fn secured(tls: Tls) -> Talk {
    let mut talk = talk(tls);
    assert_eq!(talk.one(OptionCode::STARTTLS, b"").code, ReplyCode::ACK);
    talk.secure();
    talk
}

/// Every option except STARTTLS, ABORT and EXPORT_NAME, with valid data.
fn others() -> [(OptionCode, Vec<u8>); 9] {
    [
        (OptionCode::LIST, vec![]),
        (OptionCode::PEEK_EXPORT, vec![]),
        (OptionCode::INFO, info("disk", &[])),
        (OptionCode::GO, info("disk", &[])),
        (OptionCode::STRUCTURED_REPLY, vec![]),
        (OptionCode::EXTENDED_HEADERS, vec![]),
        (OptionCode::LIST_META_CONTEXT, contexts("disk", &[])),
        (OptionCode::SET_META_CONTEXT, contexts("disk", &["base:allocation"])),
        (OptionCode(4711), b"unknown".to_vec()),
    ]
}

#[test]
fn starttls_is_acknowledged_and_the_handshake_is_due() {
    for tls in WITH_TLS {
        let mut talk = talk(tls);
        let reply = talk.one(OptionCode::STARTTLS, b"");
        assert_eq!((reply.code, reply.data.len()), (ReplyCode::ACK, 0));
        assert!(matches!(talk.left, Some(Left::StartTls(_))), "{:?}", talk.left);
    }
}

#[test]
fn starttls_with_data_is_invalid_and_starts_nothing() {
    for tls in [Tls::Off, Tls::On, Tls::Require] {
        let mut talk = talk(tls);
        for data in [&b"x"[..], &[0; 9000]] {
            assert_eq!(talk.one(OptionCode::STARTTLS, data).code, ReplyCode::ERR_INVALID);
            assert!(matches!(talk.left, Some(Left::Open(_))));
        }
    }
}

#[test]
fn notls_never_says_that_tls_is_required() {
    let mut talk = talk(Tls::Off);
    for (option, data) in others() {
        let replies = talk.all(option, &data);
        assert!(!codes(&replies).contains(&ReplyCode::ERR_TLS_REQD), "{option}: {replies:?}");
        if !matches!(talk.left, Some(Left::Open(_))) {
            talk = self::talk(Tls::Off);
        }
    }
}

#[test]
fn selectivetls_serves_in_plain_text_too() {
    let mut talk = talk(Tls::On);
    assert_eq!(talk.all(OptionCode::LIST, b"").len(), 3);
    talk.assert_in_step();
    talk.option(OptionCode::GO, &info("disk", &[]));
    assert_eq!(talk.done().terms().size, SIZE);
}

#[test]
fn forcedtls_refuses_every_other_option_with_tls_reqd_without_asking_the_caller() {
    let mut talk = talk(Tls::Require);
    for (option, data) in others() {
        assert_eq!(talk.one(option, &data).code, ReplyCode::ERR_TLS_REQD, "{option}");
        // Data that does not add up, and data that is too long to be taken, show no more.
        for data in [&b"?"[..], &[0xff; 9000]] {
            assert_eq!(talk.one(option, data).code, ReplyCode::ERR_TLS_REQD, "{option}");
        }
    }
    assert!(talk.asked.is_empty(), "{:?}", talk.asked);
    assert_eq!(talk.one(OptionCode::STARTTLS, b"").code, ReplyCode::ACK, "and it may still come");
}

#[test]
fn forcedtls_closes_on_export_name() {
    for flags in [0, NO_ZEROES, FIXED, FIXED | NO_ZEROES] {
        let mut talk = Talk::with_tls(flags, Tls::Require);
        talk.option(OptionCode::EXPORT_NAME, b"disk");
        let Ending::Refused(refusal) = talk.ending() else { panic!("{:?}", talk.ending()) };
        assert_eq!(refusal.code(), ReplyCode::ERR_TLS_REQD);
        assert!(talk.sent.is_empty() && talk.asked.is_empty());
    }
}

#[test]
fn forcedtls_acknowledges_abort() {
    let mut talk = talk(Tls::Require);
    assert_eq!(talk.one(OptionCode::ABORT, b"").code, ReplyCode::ACK);
    assert_eq!(talk.ending(), &Ending::Aborted);
}

#[test]
fn without_fixed_newstyle_there_is_no_tls() {
    for tls in WITH_TLS {
        let mut talk = Talk::with_tls(0, tls);
        assert_eq!(talk.one(OptionCode::STARTTLS, b"").code, ReplyCode::ERR_INVALID);
        assert!(matches!(talk.left, Some(Left::Open(_))));
    }
}

#[test]
fn inside_tls_the_options_follow_without_another_greeting() {
    for tls in WITH_TLS {
        let mut talk = secured(tls);
        talk.assert_in_step();
        assert_eq!(talk.all(OptionCode::LIST, b"").len(), 3);
        // NO_ZEROES was said in the flags, before TLS, and holds.
        talk.option(OptionCode::EXPORT_NAME, b"disk");
        assert_eq!(talk.sent.len(), 10);
        assert_eq!(talk.done().export_name(), "disk");
    }
}

#[test]
fn a_second_starttls_is_invalid() {
    for tls in WITH_TLS {
        let mut talk = secured(tls);
        assert_eq!(talk.one(OptionCode::STARTTLS, b"").code, ReplyCode::ERR_INVALID);
        talk.assert_in_step();
    }
}

#[test]
fn inside_tls_nothing_is_refused_with_tls_reqd() {
    for tls in WITH_TLS {
        for (option, data) in others() {
            let mut talk = secured(tls);
            for data in [&*data, &[0xff; 9000]] {
                let replies = talk.all(option, data);
                assert!(!codes(&replies).contains(&ReplyCode::ERR_TLS_REQD), "{option}");
                if !matches!(talk.left, Some(Left::Open(_))) {
                    break;
                }
            }
        }
    }
}

#[test]
fn everything_that_was_negotiated_before_tls_is_discarded() {
    let wishes = contexts("disk", &["base:allocation"]);
    for framing in [OptionCode::STRUCTURED_REPLY, OptionCode::EXTENDED_HEADERS] {
        let mut talk = talk(Tls::On);
        assert_eq!(talk.one(framing, b"").code, ReplyCode::ACK);
        assert_eq!(talk.all(OptionCode::SET_META_CONTEXT, &wishes).len(), 2);
        assert_eq!(talk.one(OptionCode::STARTTLS, b"").code, ReplyCode::ACK);
        talk.secure();
        let reply = talk.one(OptionCode::SET_META_CONTEXT, &wishes);
        assert_eq!(reply.code, ReplyCode::ERR_INVALID, "no structured replies any more");
        talk.option(OptionCode::GO, &info("disk", &[]));
        let terms = talk.done().terms();
        assert_eq!((terms.framing, terms.contexts.len()), (Framing::Simple, 0));
    }
}

#[test]
fn everything_can_be_negotiated_again_inside_tls() {
    let mut talk = secured(Tls::Require);
    assert_eq!(talk.one(OptionCode::STRUCTURED_REPLY, b"").code, ReplyCode::ACK);
    let wishes = contexts("disk", &["base:allocation"]);
    assert_eq!(talk.all(OptionCode::SET_META_CONTEXT, &wishes).len(), 2);
    talk.option(OptionCode::GO, &info("disk", &[]));
    let terms = talk.done().terms();
    assert_eq!((terms.framing, terms.contexts.len()), (Framing::Structured, 1));
}

#[test]
fn plain_text_after_starttls_closes_the_connection_and_is_not_parsed() {
    let go = [&*option_bytes(OptionCode::GO, 10), &info("disk", &[])].concat();
    for behind in [&b"x"[..], b"IHAVEOPT", &go, b"\x16\x03\x01\0\x05hello"] {
        for tls in WITH_TLS {
            let mut talk = talk(tls);
            talk.say(&[&*option_bytes(OptionCode::STARTTLS, 0), behind].concat());
            let violation = Violation::BehindStartTls(behind.len());
            assert_eq!(talk.ending(), &Ending::Violation(violation));
            assert!(talk.sent.is_empty(), "not acknowledged");
            assert!(talk.asked.is_empty());
        }
    }
}

#[test]
fn options_may_be_pipelined_before_starttls() {
    let mut talk = talk(Tls::On);
    let both = [OptionCode::LIST, OptionCode::STARTTLS].map(|option| option_bytes(option, 0));
    talk.say(&both.concat());
    assert_eq!(codes(&talk.replies()).last(), Some(&ReplyCode::ACK));
    talk.secure();
    talk.assert_in_step();
}

#[test]
fn draining_refuses_starttls_and_continues_after_the_handshake() {
    let mut talk = talk(Tls::Require);
    talk.drain();
    assert_eq!(talk.one(OptionCode::STARTTLS, b"").code, ReplyCode::ERR_SHUTDOWN);
    let mut talk = secured(Tls::Require);
    talk.drain();
    assert_eq!(talk.one(OptionCode::LIST, b"").code, ReplyCode::ERR_SHUTDOWN);
}
