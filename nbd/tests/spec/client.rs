//! "Option haggling", client's end, against servers made of bytes: old, correct and hostile ones.

use nbd::{
    AgreedContext, Framing, Violation,
    negotiate::{Client, ClientStep, Ready},
    wire::{OptionCode, ReplyCode},
};

use crate::talk::counted;

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\x00\x03";

fn reply(option: OptionCode, code: ReplyCode, data: &[u8]) -> Vec<u8> {
    let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    bytes.extend_from_slice(&option.0.to_be_bytes());
    bytes.extend_from_slice(&code.0.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn ack(option: OptionCode) -> Vec<u8> {
    reply(option, ReplyCode::ACK, b"")
}

fn info(kind: u16, data: &[u8]) -> Vec<u8> {
    reply(OptionCode::GO, ReplyCode::INFO, &[&kind.to_be_bytes(), data].concat())
}

fn export(size: u64, flags: u16) -> Vec<u8> {
    info(0, &[&size.to_be_bytes()[..], &flags.to_be_bytes()].concat())
}

/// Feeds `input`, all of which must be consumed.
fn step(client: Client, input: &[u8]) -> ClientStep {
    let (eaten, step) = client.step(input, &mut Vec::new());
    assert!(eaten == input.len() || matches!(step, ClientStep::End(_)), "{step:?}");
    step
}

/// A client after the greeting, with the framing `wish`.
fn ready(wish: Framing) -> Ready {
    let mut input = GREETING.to_vec();
    match wish {
        Framing::Simple => {}
        Framing::Structured => input.extend(ack(OptionCode::STRUCTURED_REPLY)),
        Framing::Extended => input.extend(ack(OptionCode::EXTENDED_HEADERS)),
    }
    match step(Client::start(wish), &input) {
        ClientStep::Ready(ready) => ready,
        other => panic!("{other:?}"),
    }
}

fn violation(step: ClientStep) -> Violation {
    match step {
        ClientStep::End(violation) => violation,
        other => panic!("taken: {other:?}"),
    }
}

#[test]
fn the_client_sends_its_flags_and_asks_one_question_at_a_time() {
    let mut out = Vec::new();
    let (_, step) = Client::start(Framing::Extended).step(GREETING, &mut out);
    assert_eq!(out, b"\0\0\0\x03IHAVEOPT\0\0\0\x0b\0\0\0\0");
    let ClientStep::Feed(client) = step else { panic!("{step:?}") };
    out.clear();
    let no = reply(OptionCode::EXTENDED_HEADERS, ReplyCode::ERR_UNSUP, b"never heard of it");
    let (_, step) = client.step(&no, &mut out);
    assert_eq!(out, b"IHAVEOPT\0\0\0\x08\0\0\0\0", "the next best");
    let ClientStep::Feed(client) = step else { panic!("{step:?}") };
    let (_, step) = client.step(&ack(OptionCode::STRUCTURED_REPLY), &mut out);
    assert!(matches!(step, ClientStep::Ready(ready) if ready.framing() == Framing::Structured));
}

#[test]
fn an_oldstyle_server_is_refused_by_name() {
    let step = step(Client::start(Framing::Simple), b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53");
    let violation = violation(step);
    assert_eq!(violation, Violation::Oldstyle);
    assert!(violation.to_string().contains("oldstyle"));
}

#[test]
fn before_tls_the_client_sends_only_the_request_for_it() {
    let mut out = Vec::new();
    let (_, step) = Client::start_secure(Framing::Extended).step(GREETING, &mut out);
    assert_eq!(out, b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0");
    let ClientStep::Feed(client) = step else { panic!("{step:?}") };
    out.clear();
    let yes = [ack(OptionCode::STARTTLS), b"early".to_vec()].concat();
    let (eaten, step) = client.step(&yes, &mut out);
    assert_eq!((eaten, out.len()), (yes.len() - 5, 0), "the caller has to refuse the rest");
    let ClientStep::StartTls(tls) = step else { panic!("{step:?}") };
    let ClientStep::Feed(client) = tls.secured(&mut out) else { panic!("it asks for framing") };
    assert_eq!(out, b"IHAVEOPT\0\0\0\x0b\0\0\0\0", "and does not send its flags again");
    let (_, step) = client.step(&ack(OptionCode::EXTENDED_HEADERS), &mut out);
    assert!(matches!(step, ClientStep::Ready(ready) if ready.framing() == Framing::Extended));
}

#[test]
fn a_server_without_tls_refuses() {
    let (_, step) = Client::start_secure(Framing::Simple).step(GREETING, &mut Vec::new());
    let ClientStep::Feed(client) = step else { panic!("{step:?}") };
    let no = reply(OptionCode::STARTTLS, ReplyCode::ERR_POLICY, b"no certificate");
    assert!(matches!(self::step(client, &no), ClientStep::Refused(..)));
    let old = b"NBDMAGICIHAVEOPT\x00\x00";
    let mut out = Vec::new();
    let (_, step) = Client::start_secure(Framing::Simple).step(old, &mut out);
    assert!(matches!(step, ClientStep::Refused(..)) && out.len() == 4, "{step:?}");
}

#[test]
fn a_client_that_may_do_without_tls_agrees_on_the_framing_after_the_refusal() {
    let (_, step) = Client::start_secure(Framing::Extended).step(GREETING, &mut Vec::new());
    let ClientStep::Feed(client) = step else { panic!("{step:?}") };
    let no = reply(OptionCode::STARTTLS, ReplyCode::ERR_POLICY, b"no certificate");
    let ClientStep::Refused(ready, _) = self::step(client, &no) else { panic!("no refusal") };
    let mut out = Vec::new();
    let ClientStep::Feed(client) = ready.without_tls(&mut out) else { panic!("it asks") };
    assert_eq!(out, b"IHAVEOPT\0\0\0\x0b\0\0\0\0");
    let step = self::step(client, &ack(OptionCode::EXTENDED_HEADERS));
    assert!(matches!(step, ClientStep::Ready(ready) if ready.framing() == Framing::Extended));
}

#[test]
fn the_contexts_of_an_export_are_listed_and_some_of_them_are_selected() {
    let mut out = Vec::new();
    let client = ready(Framing::Structured).contexts("disk", &mut out);
    assert!(out.starts_with(b"IHAVEOPT\0\0\0\x09"), "{out:?}");
    let entry = |option, id: u32, name: &str| {
        let data = [&id.to_be_bytes()[..], name.as_bytes()].concat();
        reply(option, ReplyCode::META_CONTEXT, &data)
    };
    let list = OptionCode::LIST_META_CONTEXT;
    let all = [entry(list, 0, "base:allocation"), entry(list, 0, "qemu:x"), ack(list)].concat();
    let ClientStep::Contexts(ready, names) = step(client, &all) else { panic!("no names") };
    assert_eq!(names, ["base:allocation", "qemu:x"]);

    out.clear();
    let client = ready.go_with("disk", ["qemu:x", "qemu:z"], &mut out);
    assert!(out.ends_with(b"\0\0\0\x02\0\0\0\x06qemu:x\0\0\0\x06qemu:z"));
    let set = OptionCode::SET_META_CONTEXT;
    let answers = [
        [entry(set, 5, "base:allocation"), entry(set, 7, "qemu:x"), ack(set)].concat(),
        [export(1 << 20, 1), ack(OptionCode::GO)].concat(),
    ];
    let step = step(client, &answers.concat());
    let ClientStep::Done(done, _) = step else { panic!("{step:?}") };
    assert_eq!(done.terms().contexts, [AgreedContext::new(7, "qemu:x")]);
}

#[test]
fn two_contexts_may_be_selected_with_ids_of_their_own() {
    let set = OptionCode::SET_META_CONTEXT;
    let entry = |id: u32, name: &str| {
        reply(set, ReplyCode::META_CONTEXT, &[&id.to_be_bytes()[..], name.as_bytes()].concat())
    };
    let enter = |entries: Vec<Vec<u8>>| {
        let names = ["base:allocation", "qemu:dirty-bitmap:b"];
        let client = ready(Framing::Structured).go_with("disk", names, &mut Vec::new());
        let rest = [ack(set), export(1 << 20, 1), ack(OptionCode::GO)].concat();
        step(client, &[entries.concat(), rest].concat())
    };
    let both = vec![entry(0, "qemu:dirty-bitmap:b"), entry(9, "base:allocation")];
    let ClientStep::Done(done, _) = enter(both) else { panic!("not done") };
    assert_eq!(done.terms().context("base:allocation"), Some(9));
    assert_eq!(done.terms().context("qemu:dirty-bitmap:b"), Some(0));
    let same = vec![entry(9, "qemu:dirty-bitmap:b"), entry(9, "base:allocation")];
    assert!(matches!(violation(enter(same)), Violation::Unexpected(_)));
}

#[test]
fn a_server_of_another_protocol_is_refused() {
    for greeting in [&b"SSH-2.0-OpenSSH_9"[..], b"NBDMAGICHTTP/1.1"] {
        let step = step(Client::start(Framing::Simple), greeting);
        assert!(matches!(violation(step), Violation::Magic { .. }));
    }
}

#[test]
fn a_server_without_fixed_newstyle_is_only_sent_export_name() {
    let mut out = Vec::new();
    let (_, step) = Client::start(Framing::Extended).step(b"NBDMAGICIHAVEOPT\x00\x00", &mut out);
    assert_eq!(out, [0; 4], "no flag that it does not offer");
    let ClientStep::Ready(ready) = step else { panic!("{step:?}") };
    let (_, step) = ready.list(&mut out).step(&[], &mut out);
    let ClientStep::Refused(ready, _) = step else { panic!("{step:?}") };
    out.clear();
    let client = ready.go("disk", true, &mut out);
    assert_eq!(out, b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk");
    let mut answer = [&(1_u64 << 20).to_be_bytes()[..], &1_u16.to_be_bytes()].concat();
    answer.extend_from_slice(&[0; 123]);
    let (eaten, step) = client.step(&answer, &mut out);
    assert_eq!(eaten, 0);
    let ClientStep::Feed(client) = step else { panic!("{step:?}") };
    answer.push(0);
    let (eaten, step) = client.step(&answer, &mut out);
    assert_eq!(eaten, 134);
    assert!(matches!(step, ClientStep::Done(done, _) if done.terms().size == 1 << 20));
}

#[test]
fn go_falls_back_to_export_name() {
    let mut out = Vec::new();
    let client = ready(Framing::Structured).go("disk", false, &mut out);
    out.clear();
    let (_, step) = client.step(&reply(OptionCode::GO, ReplyCode::ERR_UNSUP, b""), &mut out);
    assert_eq!(out, b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk");
    let ClientStep::Feed(client) = step else { panic!("{step:?}") };
    assert!(client.awaited().contains("NBD_OPT_EXPORT_NAME"));
    let answer = [&(1_u64 << 20).to_be_bytes()[..], &3_u16.to_be_bytes(), b"more"].concat();
    let (eaten, step) = client.step(&answer, &mut out);
    assert_eq!(eaten, 10, "no zeroes, and the rest belongs to the transmission");
    assert!(matches!(step, ClientStep::Done(..)));
    // With extended headers there is no fallback.
    let client = ready(Framing::Extended).go("disk", false, &mut out);
    violation(step_error(client, ReplyCode::ERR_UNSUP));
}

fn step_error(client: Client, code: ReplyCode) -> ClientStep {
    step(client, &reply(OptionCode::GO, code, b"text"))
}

#[test]
fn a_refusal_has_its_text_and_another_question_may_follow() {
    let mut out = Vec::new();
    let client = ready(Framing::Simple).go("nope", false, &mut out);
    let answer = reply(OptionCode::GO, ReplyCode::ERR_UNKNOWN, b"no \x1b[31mexport\n");
    let ClientStep::Refused(ready, refusal) = step(client, &answer) else { panic!() };
    assert_eq!(refusal.to_string(), "no  [31mexport (NBD_REP_ERR_UNKNOWN)");
    let client = ready.go("", false, &mut out);
    let answer = [export(5, 1), ack(OptionCode::GO)].concat();
    assert!(matches!(step(client, &answer), ClientStep::Done(..)));
}

#[test]
fn after_shutdown_and_tls_required_only_abort_is_left() {
    for code in [ReplyCode::ERR_SHUTDOWN, ReplyCode::ERR_TLS_REQD] {
        let input = [GREETING, &reply(OptionCode::EXTENDED_HEADERS, code, b"")].concat();
        let ClientStep::Refused(ready, refusal) = step(Client::start(Framing::Extended), &input)
        else {
            panic!("not refused")
        };
        assert_eq!(refusal.code(), code);
        let mut out = Vec::new();
        ready.abort(&mut out);
        assert_eq!(out, b"IHAVEOPT\0\0\0\x02\0\0\0\0");
    }
}

#[test]
fn infos_may_come_in_any_order_and_unknown_ones_are_ignored() {
    let mut out = Vec::new();
    let client = ready(Framing::Structured).go("x", true, &mut out);
    let context = [&7_u32.to_be_bytes()[..], b"base:allocation"].concat();
    let sizes = [512_u32, 4096, 1 << 20].map(u32::to_be_bytes).concat();
    let input = [
        reply(OptionCode::SET_META_CONTEXT, ReplyCode::META_CONTEXT, &context),
        ack(OptionCode::SET_META_CONTEXT),
        info(3, &sizes),
        info(2, b"a text"),
        info(900, &[9; 300]),
        info(1, b"canon"),
        export(1 << 30, 0xffff),
        ack(OptionCode::GO),
    ]
    .concat();
    let ClientStep::Done(done, described) = step(client, &input) else { panic!() };
    assert_eq!(done.terms().context("base:allocation"), Some(7));
    assert_eq!(done.terms().blocks.minimum, 512);
    assert_eq!(described.name.as_deref(), Some("canon"));
    assert_eq!(described.description.as_deref(), Some("a text"));
    assert!(described.blocks_told);
}

#[test]
fn the_client_enters_an_export_without_a_refused_context() {
    let mut out = Vec::new();
    let client = ready(Framing::Structured).go("x", true, &mut out);
    let context = [&7_u32.to_be_bytes()[..], b"base:allocation"].concat();
    let input = [
        reply(OptionCode::SET_META_CONTEXT, ReplyCode::META_CONTEXT, &context),
        reply(OptionCode::SET_META_CONTEXT, ReplyCode::ERR_UNKNOWN, b""),
        export(1 << 30, 1),
        ack(OptionCode::GO),
    ]
    .concat();
    let ClientStep::Done(done, _) = step(client, &input) else { panic!() };
    assert_eq!(done.terms().contexts, []);
}

#[test]
fn a_list_is_names_and_descriptions() {
    let client = ready(Framing::Simple).list(&mut Vec::new());
    let entry = |name: &str, text: &str| {
        let data = [counted(name), text.as_bytes().to_vec()].concat();
        reply(OptionCode::LIST, ReplyCode::SERVER, &data)
    };
    let input = [entry("", "default"), entry("b", ""), ack(OptionCode::LIST)].concat();
    let ClientStep::Listed(_, found) = step(client, &input) else { panic!() };
    let found: Vec<_> = found.iter().map(|one| (&*one.name, &*one.description)).collect();
    assert_eq!(found, [("", "default"), ("b", "")]);
}

#[test]
fn an_answer_to_another_option_is_a_violation() {
    let client = ready(Framing::Simple).list(&mut Vec::new());
    let violation = violation(step(client, &ack(OptionCode::GO)));
    assert!(matches!(violation, Violation::WrongOption { .. }));
}

#[test]
fn a_reply_that_does_not_belong_to_the_option_is_a_violation() {
    for code in [ReplyCode::SERVER, ReplyCode::META_CONTEXT, ReplyCode(77)] {
        let client = ready(Framing::Simple).go("", false, &mut Vec::new());
        let violation = violation(step_error(client, code));
        assert_eq!(violation, Violation::UnexpectedReply(code));
    }
}

#[test]
fn a_reply_of_4_gib_is_refused_by_its_header() {
    let client = ready(Framing::Simple).list(&mut Vec::new());
    let mut input = reply(OptionCode::LIST, ReplyCode::SERVER, b"");
    input[16..20].fill(0xff);
    assert!(matches!(violation(step(client, &input)), Violation::ReplyTooLong { .. }));
}

#[test]
fn an_endless_list_is_stopped() {
    let mut client = ready(Framing::Simple).list(&mut Vec::new());
    let entry = reply(OptionCode::LIST, ReplyCode::SERVER, b"\0\0\0\x01x");
    for _ in 0..10_002 {
        match step(client, &entry) {
            ClientStep::Feed(next) => client = next,
            ClientStep::End(Violation::TooManyReplies { .. }) => return,
            other => panic!("{other:?}"),
        }
    }
    panic!("never stopped");
}

#[test]
fn endless_infos_are_stopped() {
    let mut client = ready(Framing::Simple).go("", false, &mut Vec::new());
    for _ in 0..10_002 {
        match step(client, &info(9, b"")) {
            ClientStep::Feed(next) => client = next,
            ClientStep::End(Violation::TooManyReplies { .. }) => return,
            other => panic!("{other:?}"),
        }
    }
    panic!("never stopped");
}

#[test]
fn wrong_descriptions_of_an_export_are_violations() {
    for (why, input) in [
        ("no export at all", ack(OptionCode::GO)),
        ("2^63 bytes", [export(1 << 63, 1), ack(OptionCode::GO)].concat()),
        ("no HAS_FLAGS", [export(1, 0), ack(OptionCode::GO)].concat()),
        ("a short export", info(0, &[0; 9])),
        ("a long export", info(0, &[0; 11])),
        ("short block sizes", info(3, &[0; 11])),
        ("a name with a NUL", info(1, b"a\0")),
        ("a name of 4097 bytes", info(1, &[b'a'; 4097])),
        ("a description that is not UTF-8", info(2, b"\xff")),
        ("an info without a kind", reply(OptionCode::GO, ReplyCode::INFO, b"\0")),
    ] {
        let client = ready(Framing::Simple).go("", false, &mut Vec::new());
        assert!(matches!(step(client, &input), ClientStep::End(_)), "{why}");
    }
}
