//! Metadata contexts, server's end: when a client may ask for them, which queries select them, and when a
//! selection is void.

use nbd::wire::{OptionCode, ReplyCode};

use crate::talk::{Talk, be32, codes, contexts, counted, info};

#[test]
fn meta_contexts_before_structured_replies_are_invalid() {
    let mut talk = Talk::new();
    for option in [OptionCode::SET_META_CONTEXT, OptionCode::LIST_META_CONTEXT] {
        let reply = talk.one(option, &contexts("", &["base:allocation"]));
        assert_eq!(reply.code, ReplyCode::ERR_INVALID);
    }
    talk.one(OptionCode::STRUCTURED_REPLY, b"");
    talk.all(OptionCode::GO, &info("", &[]));
    assert_eq!(talk.done().terms().contexts, []);
}

#[test]
fn list_meta_context_lists_all_contexts_without_a_query_and_by_namespace() {
    let mut talk = Talk::structured();
    for (queries, found) in [
        (&[][..], true),
        (&["base:"], true),
        (&["base:allocation"], true),
        (&["x-other:", "base:"], true),
        (&["base:nothing"], false),
        (&["qemu:dirty-bitmap:b"], false),
    ] {
        let replies = talk.all(OptionCode::LIST_META_CONTEXT, &contexts("", queries));
        if found {
            assert_eq!(codes(&replies), [ReplyCode::META_CONTEXT, ReplyCode::ACK], "{queries:?}");
            assert_eq!(replies[0].data, b"\0\0\0\0base:allocation");
        } else {
            assert_eq!(codes(&replies), [ReplyCode::ACK], "{queries:?}");
        }
    }
    talk.all(OptionCode::GO, &info("", &[]));
    assert_eq!(talk.done().terms().contexts, [], "a list selects nothing");
}

#[test]
fn set_meta_context_selects_only_by_full_name() {
    for (queries, selects) in [
        (&["base:allocation"][..], true),
        (&["x-other:y", "base:allocation", "base:allocation"], true),
        (&["base:"], false),
        (&[], false),
        (&["base:other"], false),
    ] {
        let mut talk = Talk::structured();
        let replies = talk.all(OptionCode::SET_META_CONTEXT, &contexts("disk", queries));
        let mut id = None;
        if selects {
            assert_eq!(codes(&replies), [ReplyCode::META_CONTEXT, ReplyCode::ACK], "{queries:?}");
            assert_eq!(&replies[0].data[4..], b"base:allocation");
            id = Some(be32(&replies[0].data));
        } else {
            assert_eq!(codes(&replies), [ReplyCode::ACK], "{queries:?}");
        }
        talk.all(OptionCode::GO, &info("disk", &[]));
        assert_eq!(talk.done().terms().context("base:allocation"), id, "{queries:?}");
    }
}

#[test]
fn contexts_work_with_extended_headers_alone() {
    let mut talk = Talk::new();
    talk.one(OptionCode::EXTENDED_HEADERS, b"");
    let replies = talk.all(OptionCode::SET_META_CONTEXT, &contexts("", &["base:allocation"]));
    assert_eq!(codes(&replies), [ReplyCode::META_CONTEXT, ReplyCode::ACK]);
    talk.all(OptionCode::GO, &info("", &[]));
    assert!(talk.done().terms().context("base:allocation").is_some());
}

#[test]
fn a_stored_context_is_ignored_when_go_names_another_export() {
    for enter in [OptionCode::GO, OptionCode::EXPORT_NAME] {
        let mut talk = Talk::structured();
        talk.all(OptionCode::SET_META_CONTEXT, &contexts("", &["base:allocation"]));
        let data = if enter == OptionCode::GO { info("disk", &[]) } else { b"disk".to_vec() };
        talk.option(enter, &data);
        assert_eq!(talk.done().terms().contexts, []);
    }
}

#[test]
fn a_failed_set_meta_context_clears_the_selection() {
    let over = contexts(&"n".repeat(4097), &[]);
    let long = vec![0; 9000];
    for bad in [&b"\0\0"[..], &contexts("nope", &["base:allocation"]), &over, &long] {
        let mut talk = Talk::structured();
        talk.all(OptionCode::SET_META_CONTEXT, &contexts("", &["base:allocation"]));
        assert!(talk.one(OptionCode::SET_META_CONTEXT, bad).code.is_error());
        talk.all(OptionCode::GO, &info("", &[]));
        assert_eq!(talk.done().terms().contexts, [], "{bad:?}");
    }
    let mut talk = Talk::structured();
    talk.all(OptionCode::SET_META_CONTEXT, &contexts("", &["base:allocation"]));
    talk.all(OptionCode::SET_META_CONTEXT, &contexts("", &[]));
    talk.all(OptionCode::GO, &info("", &[]));
    assert_eq!(talk.done().terms().contexts, [], "an empty set clears too");
}

#[test]
fn query_counts_and_lengths_that_disagree_are_invalid() {
    let mut talk = Talk::structured();
    let good = contexts("", &["base:allocation"]);
    let mut more = good.clone();
    more[7] = 2;
    let mut four_gi = good.clone();
    four_gi[4..8].fill(0xff);
    let mut longer_query = good.clone();
    longer_query[11] += 1;
    let mut shorter_query = good.clone();
    shorter_query[11] -= 1;
    let extra = [&*good, b"x"].concat();
    let no_count = counted("disk");
    for bad in [&more, &four_gi, &longer_query, &shorter_query, &extra, &no_count] {
        for option in [OptionCode::LIST_META_CONTEXT, OptionCode::SET_META_CONTEXT] {
            assert_eq!(talk.one(option, bad).code, ReplyCode::ERR_INVALID, "{bad:?}");
        }
    }
    let long = contexts("", &[&format!("base:{}", "q".repeat(4092))]);
    let reply = talk.one(OptionCode::SET_META_CONTEXT, &long);
    assert_eq!(reply.code, ReplyCode::ERR_TOO_BIG);
    talk.assert_in_step();
}

#[test]
fn contexts_of_an_unknown_export_are_refused() {
    let mut talk = Talk::structured();
    for option in [OptionCode::LIST_META_CONTEXT, OptionCode::SET_META_CONTEXT] {
        let reply = talk.one(option, &contexts("nope", &[]));
        assert_eq!(reply.code, ReplyCode::ERR_UNKNOWN);
    }
    talk.assert_in_step();
}

#[test]
fn facts_are_told_to_the_client_that_names_them_and_cannot_be_selected() {
    let (list, set) = (OptionCode::LIST_META_CONTEXT, OptionCode::SET_META_CONTEXT);
    for (option, queries, found) in [
        (list, &["x-test:serial"][..], &["x-test:serial=12ab"][..]),
        (list, &["x-test:run"], &["x-test:run=7"]),
        (list, &["x-test:run", "x-test:serial"], &["x-test:serial=12ab", "x-test:run=7"]),
        (list, &["base:", "x-test:serial"], &["base:allocation", "x-test:serial=12ab"]),
        (list, &["x-test:", "x-test:serial=12ab", "x-test:other"], &[]),
        (set, &["x-test:serial", "x-test:run"], &[]),
    ] {
        let mut talk = Talk::structured();
        let replies = talk.all(option, &contexts("disk", queries));
        let names: Vec<_> = replies.iter().filter_map(|reply| reply.data.get(4..)).collect();
        let due: Vec<_> = found.iter().map(|name| name.as_bytes()).collect();
        assert_eq!(names, due, "{queries:?}");
    }
}

#[test]
fn the_server_is_given_the_queries_as_the_client_sent_them() {
    let mut talk = Talk::structured();
    talk.all(OptionCode::LIST_META_CONTEXT, &contexts("disk", &["b:", "a:x", "b:"]));
    assert_eq!(talk.queries, ["b:", "a:x", "b:"]);
    talk.all(OptionCode::INFO, &info("disk", &[1]));
    assert!(talk.queries.is_empty());
}
