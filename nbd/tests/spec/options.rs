//! "Option haggling", server's end: each option, its errors, and the limits.

use nbd::{
    Framing, Violation,
    negotiate::{Ending, Offers, Purpose},
    wire::{InfoType, OptionCode, ReplyCode, TransmissionFlags},
};

use crate::talk::{
    FIXED, Left, NO_ZEROES, Reply, SIZE, Talk, be16, be32, be64, codes, contexts, info,
    option_bytes,
};

#[test]
fn the_greeting_is_that_of_fixed_newstyle() {
    let talk = Talk::greeted();
    assert_eq!(talk.sent, b"NBDMAGICIHAVEOPT\x00\x03");
}

#[test]
fn an_unknown_client_flag_closes_the_connection() {
    let talk = Talk::with_flags(FIXED | 4);
    assert_eq!(talk.ending(), &Ending::Violation(Violation::ClientFlags(5)));
    assert!(talk.sent.is_empty());
}

#[test]
fn a_wrong_option_magic_closes_the_connection() {
    let mut talk = Talk::new();
    talk.say(b"GET / HT");
    assert!(matches!(talk.ending(), Ending::Violation(Violation::Magic { .. })));
}

#[test]
fn an_unknown_option_is_answered_and_its_data_skipped() {
    let mut talk = Talk::new();
    for len in [0, 1, 8 << 10, (8 << 10) + 1, 1 << 20] {
        let reply = talk.one(OptionCode(99), &vec![7; len]);
        assert_eq!(reply.code, ReplyCode::ERR_UNSUP, "{len}");
    }
    assert_eq!(talk.one(OptionCode::PEEK_EXPORT, b"").code, ReplyCode::ERR_UNSUP);
    talk.assert_in_step();
}

#[test]
fn an_option_over_8_kib_is_refused_without_being_buffered() {
    let mut talk = Talk::structured();
    for option in [
        OptionCode::INFO,
        OptionCode::GO,
        OptionCode::LIST_META_CONTEXT,
        OptionCode::SET_META_CONTEXT,
    ] {
        talk.say(&option_bytes(option, 8193));
        for _ in 0..8192 {
            talk.say(b"x");
            assert!(talk.pending.is_empty());
            assert!(talk.sent.is_empty(), "answered before its end");
        }
        talk.say(b"x");
        assert_eq!(codes(&talk.replies()), [ReplyCode::ERR_TOO_BIG], "{option}");
    }
    for option in [OptionCode::LIST, OptionCode::STARTTLS, OptionCode::STRUCTURED_REPLY] {
        assert_eq!(talk.one(option, &[0; 9000]).code, ReplyCode::ERR_INVALID);
    }
    talk.assert_in_step();
}

#[test]
fn an_option_over_1_mib_closes_the_connection() {
    for len in [(1 << 20) + 1, u32::MAX] {
        let mut talk = Talk::new();
        talk.say(&option_bytes(OptionCode::GO, len));
        assert!(matches!(
            talk.ending(),
            Ending::Violation(Violation::OptionTooLong { len: announced, .. }) if *announced == len
        ));
    }
}

#[test]
fn abort_is_acknowledged_and_its_data_ignored() {
    for len in [0, 5, 100_000] {
        let mut talk = Talk::new();
        assert_eq!(talk.one(OptionCode::ABORT, &vec![1; len]).code, ReplyCode::ACK);
        assert_eq!(talk.ending(), &Ending::Aborted);
    }
}

#[test]
fn list_tells_names_and_descriptions() {
    let mut talk = Talk::new();
    let replies = talk.all(OptionCode::LIST, b"");
    assert_eq!(codes(&replies), [ReplyCode::SERVER, ReplyCode::SERVER, ReplyCode::ACK]);
    assert_eq!(replies[0].data, b"\0\0\0\0a disk");
    assert_eq!(replies[1].data, b"\0\0\0\x04disk");
    assert!(replies[2].data.is_empty());
    talk.assert_in_step();
}

#[test]
fn list_with_data_is_invalid_with_exactly_one_reply() {
    let mut talk = Talk::new();
    assert_eq!(talk.one(OptionCode::LIST, b"x").code, ReplyCode::ERR_INVALID);
    talk.assert_in_step();
}

#[test]
fn starttls_is_refused_and_the_session_lives() {
    let mut talk = Talk::new();
    assert_eq!(talk.one(OptionCode::STARTTLS, b"").code, ReplyCode::ERR_UNSUP);
    assert_eq!(talk.one(OptionCode::STARTTLS, b"x").code, ReplyCode::ERR_INVALID);
    talk.assert_in_step();
}

#[test]
fn go_tells_export_and_block_size_and_enters_the_transmission() {
    let mut talk = Talk::new();
    let replies = talk.all(OptionCode::GO, &info("disk", &[]));
    assert_eq!(codes(&replies), [ReplyCode::INFO, ReplyCode::INFO, ReplyCode::ACK]);
    assert_eq!(be16(&replies[0].data), InfoType::EXPORT.0);
    assert_eq!(replies[0].data.len(), 12);
    assert_eq!(be64(&replies[0].data[2..]), SIZE);
    assert_eq!(be16(&replies[1].data), InfoType::BLOCK_SIZE.0);
    assert_eq!(replies[1].data.len(), 14);
    assert_eq!(be32(&replies[1].data[2..]), 1);
    assert_eq!(be32(&replies[1].data[6..]), 4096);
    assert_eq!(be32(&replies[1].data[10..]), 32 << 20);

    let negotiated = talk.done();
    assert_eq!(negotiated.export_name(), "disk");
    assert_eq!(negotiated.purpose(), Purpose::Go);
    assert_eq!(negotiated.terms().size, SIZE);
    assert_eq!(negotiated.terms().framing, Framing::Simple);
    assert_eq!(negotiated.terms().contexts, []);
}

#[test]
fn bytes_after_go_belong_to_the_transmission() {
    let mut talk = Talk::new();
    let mut bytes = option_bytes(OptionCode::GO, 6);
    bytes.extend_from_slice(&info("", &[]));
    bytes.extend_from_slice(b"\x25\x60\x95\x13 and so on");
    talk.say(&bytes);
    assert!(talk.done().terms().flags.contains(TransmissionFlags::HAS_FLAGS));
    assert_eq!(talk.pending, b"\x25\x60\x95\x13 and so on");
}

#[test]
fn info_tells_name_and_description_to_a_client_that_asks() {
    let mut talk = Talk::new();
    let kinds = |replies: &[Reply]| {
        let infos = replies.iter().filter(|reply| reply.code == ReplyCode::INFO);
        infos.map(|reply| InfoType(be16(&reply.data))).collect::<Vec<_>>()
    };
    let bare = talk.all(OptionCode::INFO, &info("", &[]));
    assert_eq!(kinds(&bare), [InfoType::EXPORT, InfoType::BLOCK_SIZE]);
    // Unknown kinds are ignored, and none is told twice.
    let full = talk.all(OptionCode::INFO, &info("", &[2, 1, 999, 1, 0, 3]));
    let all = [InfoType::EXPORT, InfoType::BLOCK_SIZE, InfoType::NAME, InfoType::DESCRIPTION];
    assert_eq!(kinds(&full), all);
    assert_eq!(&full[2].data[2..], b"canonical");
    assert_eq!(&full[3].data[2..], b"a disk");
    talk.assert_in_step();
}

#[test]
fn df_is_offered_exactly_when_replies_can_be_fragmented() {
    let flags = |talk: &mut Talk| {
        let replies = talk.all(OptionCode::INFO, &info("", &[]));
        TransmissionFlags::from_bits_retain(be16(&replies[0].data[10..]))
    };
    let mut talk = Talk::new();
    assert!(!flags(&mut talk).contains(TransmissionFlags::SEND_DF));
    talk.one(OptionCode::STRUCTURED_REPLY, b"");
    assert!(flags(&mut talk).contains(TransmissionFlags::SEND_DF));
    let mut talk = Talk::new();
    talk.one(OptionCode::EXTENDED_HEADERS, b"");
    assert!(flags(&mut talk).contains(TransmissionFlags::SEND_DF));
}

#[test]
fn an_unknown_export_is_refused_and_the_client_can_ask_for_another() {
    let mut talk = Talk::new();
    assert_eq!(talk.one(OptionCode::GO, &info("nope", &[])).code, ReplyCode::ERR_UNKNOWN);
    assert_eq!(talk.one(OptionCode::INFO, &info("nope", &[])).code, ReplyCode::ERR_UNKNOWN);
    talk.assert_in_step();
    talk.all(OptionCode::GO, &info("disk", &[]));
    assert_eq!(talk.done().export_name(), "disk");
}

#[test]
fn a_go_whose_lengths_disagree_is_invalid_and_the_stream_stays_in_step() {
    let mut talk = Talk::new();
    let good = info("disk", &[3]);
    let mut name_too_long = good.clone();
    name_too_long[3] = 200;
    let mut name_of_4_gib = good.clone();
    name_of_4_gib[..4].fill(0xff);
    let mut more_kinds = good.clone();
    more_kinds[9] = 2;
    let mut fewer_kinds = good.clone();
    fewer_kinds[9] = 0;
    let longer = [&*good, b"x"].concat();
    for bad in [
        &[][..],
        &good[..3],
        &good[..7],
        &good[..9],
        &good[..11],
        &name_too_long,
        &name_of_4_gib,
        &more_kinds,
        &fewer_kinds,
        &longer,
    ] {
        for option in [OptionCode::GO, OptionCode::INFO] {
            assert_eq!(talk.one(option, bad).code, ReplyCode::ERR_INVALID, "{bad:?}");
        }
    }
    assert!(talk.asked.is_empty());
    talk.assert_in_step();
}

#[test]
fn a_name_that_is_not_utf8_or_has_a_nul_is_invalid() {
    let mut talk = Talk::new();
    assert_eq!(talk.one(OptionCode::GO, b"\0\0\0\x02\xff\xfe\0\0").code, ReplyCode::ERR_INVALID);
    assert_eq!(talk.one(OptionCode::GO, &info("a\0b", &[])).code, ReplyCode::ERR_INVALID);
    talk.assert_in_step();
}

#[test]
fn a_name_of_4096_bytes_is_taken_and_one_of_4097_is_too_big() {
    let mut talk = Talk::structured();
    let (fits, over) = ("n".repeat(4096), "n".repeat(4097));
    assert_eq!(talk.one(OptionCode::GO, &info(&over, &[])).code, ReplyCode::ERR_TOO_BIG);
    let set = talk.one(OptionCode::SET_META_CONTEXT, &contexts(&over, &[]));
    assert_eq!(set.code, ReplyCode::ERR_TOO_BIG);
    talk.assert_in_step();
    talk.all(OptionCode::GO, &info(&fits, &[]));
    assert_eq!(talk.done().export_name(), fits);
}

#[test]
fn export_name_answers_with_124_zeroes_unless_agreed_otherwise() {
    for (flags, len) in [(0, 134), (FIXED, 134), (NO_ZEROES, 10), (FIXED | NO_ZEROES, 10)] {
        let mut talk = Talk::with_flags(flags);
        talk.option(OptionCode::EXPORT_NAME, b"disk");
        assert_eq!(talk.sent.len(), len);
        assert_eq!(be64(&talk.sent), SIZE);
        assert!(talk.sent[10..].iter().all(|&byte| byte == 0));
        assert_eq!(talk.done().purpose(), Purpose::ExportName);
        assert_eq!(talk.done().export_name(), "disk");
    }
}

#[test]
fn a_refused_export_name_closes_without_an_answer() {
    let mut talk = Talk::new();
    talk.option(OptionCode::EXPORT_NAME, b"nope");
    assert!(talk.sent.is_empty());
    assert!(matches!(
        talk.ending(),
        Ending::Refused(refusal) if refusal.code() == ReplyCode::ERR_UNKNOWN
    ));
}

#[test]
fn an_export_name_that_is_not_a_valid_name_closes() {
    for name in [&[b'n'; 4097][..], &[b'n'; 10_000], b"\xff", b"\0"] {
        let mut talk = Talk::new();
        talk.option(OptionCode::EXPORT_NAME, name);
        assert!(matches!(talk.ending(), Ending::Violation(_)));
        assert!(talk.sent.is_empty());
    }
}

#[test]
fn without_fixed_newstyle_only_export_name_is_taken() {
    let mut talk = Talk::with_flags(NO_ZEROES);
    for option in [OptionCode::LIST, OptionCode::GO, OptionCode::STARTTLS, OptionCode(77)] {
        assert_eq!(talk.one(option, b"").code, ReplyCode::ERR_INVALID);
    }
    talk.option(OptionCode::EXPORT_NAME, b"");
    assert_eq!(talk.done().export_name(), "");
}

/// "If the server did not set it, the client must not": flags that the server turned off are refused too.
#[test]
fn handshake_flags_that_are_not_offered_close_the_connection() {
    for (fixed, no_zeroes) in [(false, false), (false, true), (true, false)] {
        let talk = || Talk::greeted_by(Offers { fixed, no_zeroes, ..Offers::default() });
        let offered = u32::from(fixed) * FIXED + u32::from(no_zeroes) * NO_ZEROES;
        let flags = u8::try_from(offered).unwrap();
        assert_eq!(talk().sent[16..], [0, flags]);
        for flags in 0..4_u32 {
            let mut talk = talk();
            talk.sent.clear();
            talk.say(&flags.to_be_bytes());
            if flags & !offered != 0 {
                let violation = Violation::ClientFlags(flags);
                assert_eq!(talk.ending(), &Ending::Violation(violation), "{flags} of {offered}");
                continue;
            }
            talk.option(OptionCode::EXPORT_NAME, b"");
            assert_eq!(talk.done().export_name(), "", "{flags} of {offered}");
            assert_eq!(talk.sent.len(), if flags & NO_ZEROES == 0 { 134 } else { 10 });
        }
    }
}

#[test]
fn structured_replies_are_agreed_and_with_data_invalid() {
    let mut talk = Talk::new();
    assert_eq!(talk.one(OptionCode::STRUCTURED_REPLY, b"x").code, ReplyCode::ERR_INVALID);
    assert_eq!(talk.one(OptionCode::STRUCTURED_REPLY, b"").code, ReplyCode::ACK);
    assert_eq!(talk.one(OptionCode::STRUCTURED_REPLY, b"").code, ReplyCode::ACK);
    talk.all(OptionCode::GO, &info("", &[]));
    assert_eq!(talk.done().terms().framing, Framing::Structured);
}

#[test]
fn extended_headers_take_precedence_over_structured_replies() {
    let mut talk = Talk::structured();
    assert_eq!(talk.one(OptionCode::EXTENDED_HEADERS, b"x").code, ReplyCode::ERR_INVALID);
    assert_eq!(talk.one(OptionCode::EXTENDED_HEADERS, b"").code, ReplyCode::ACK);
    let downgrade = talk.one(OptionCode::STRUCTURED_REPLY, b"");
    assert_eq!(downgrade.code, ReplyCode::ERR_EXT_HEADER_REQD);
    talk.all(OptionCode::GO, &info("", &[]));
    assert_eq!(talk.done().terms().framing, Framing::Extended);
}

#[test]
fn export_name_after_extended_headers_closes() {
    let mut talk = Talk::new();
    talk.one(OptionCode::EXTENDED_HEADERS, b"");
    talk.option(OptionCode::EXPORT_NAME, b"");
    assert!(matches!(talk.ending(), Ending::Violation(Violation::ExportName(_))));
}

#[test]
fn while_draining_every_option_but_abort_is_answered_shutdown() {
    let mut talk = Talk::structured();
    talk.drain();
    for option in 2..14 {
        if OptionCode(option) == OptionCode::ABORT {
            continue;
        }
        for len in [0, 9000] {
            let reply = talk.one(OptionCode(option), &vec![0; len]);
            assert_eq!(reply.code, ReplyCode::ERR_SHUTDOWN, "option {option}");
        }
    }
    assert!(matches!(talk.left, Some(Left::Open(_))));
    assert_eq!(talk.one(OptionCode::ABORT, b"").code, ReplyCode::ACK);
    assert_eq!(talk.ending(), &Ending::Aborted);

    let mut talk = Talk::new();
    talk.drain();
    talk.option(OptionCode::EXPORT_NAME, b"disk");
    assert_eq!(talk.ending(), &Ending::ShutDown);
    assert!(talk.sent.is_empty());
}
