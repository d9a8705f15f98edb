//! What a server says in words: it must stay words on a terminal, and be no longer than a person reads.

use crate::{
    Case, ENTERING, INFO, LIST, Words, is_text, judge, run,
    server::{
        ACK, Act, Asked, DONE, ERROR, Framing, LIST as LISTING, LIST_CONTEXTS, Manner, POLICY,
        Script, Server, chunk, context, info, listed, reply,
    },
};

/// Clears the screen, sets the title, goes up a line, C1's CSI, turns the text around, hides.
const EVIL: &str =
    "a\x1b[2J\x1b]0;owned\x07\rb\x7f\u{9b}31m\u{202e}c\u{200b}\u{2028}d\u{2066}e\u{feff}\nexport=f";

#[test]
fn names_and_descriptions_stay_text() {
    let script: Script = |asked, honest| match asked {
        Asked::Option { code: LISTING, .. } => {
            let one = listed(EVIL.as_bytes(), EVIL.as_bytes());
            Act::Say([one, reply(LISTING, ACK, &[])].concat())
        }
        Asked::Option { code: code @ LIST_CONTEXTS, .. } => {
            let one = context(*code, 0, EVIL.as_bytes());
            Act::Say([one, reply(*code, ACK, &[])].concat())
        }
        Asked::Option { code: code @ 6, .. } => {
            let (name, text) = (info(*code, 1, EVIL.as_bytes()), info(*code, 2, EVIL.as_bytes()));
            Act::Say([name, text, honest].concat())
        }
        _ => Act::Say(honest),
    };
    let server = Server::start(Manner::new(Framing::Structured, script));
    let all: [(Words, usize); 5] = [
        (INFO, 20),
        (LIST, 20),
        (&["list", "URI", "--names"], 1),
        (&["info", "URI", "--json"], 30),
        (&["list", "URI", "--json"], 30),
    ];
    for (words, most) in all {
        let told = format!("{words:?}");
        let output = run(&server, words);
        assert!(output.status.success(), "{told}: {}", String::from_utf8_lossy(&output.stderr));
        is_text(&output.stdout).expect(&told);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.lines().count() <= most, "{told}: {text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("export=f")).count(), 0, "{text}");
        if words.contains(&"--json") {
            let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let export = &told["exports"][0];
            assert_eq!(export["description"], EVIL);
            assert_eq!(export["contexts"][0], EVIL);
        }
    }
}

#[test]
fn a_refusal_stays_text() {
    let script: Script = |asked, honest| match asked {
        Asked::Option { code: code @ (3 | 6 | 7), .. } => {
            Act::Say(reply(*code, POLICY, EVIL.as_bytes()))
        }
        _ => Act::Say(honest),
    };
    let manner = Manner::new(Framing::Structured, script);
    let commands = &[INFO, LIST, &["map", "URI"], &["read", "URI"]];
    Case { name: "a refusal that is evil", manner, commands, says: "NBD_REP_ERR_POLICY" }.fails();
    // A server that can be spoken to works, for `probe`.
    let server = Server::start(manner);
    is_text(&run(&server, &["probe", "URI"]).stdout).expect("probe");
    is_text(&run(&server, &["probe", "URI", "--json"]).stdout).expect("probe --json");
}

#[test]
fn a_long_refusal_is_cut() {
    let script: Script = |asked, honest| match asked {
        Asked::Option { code: code @ (3 | 6 | 7), .. } => {
            Act::Say(reply(*code, POLICY, &[b'x'; 16_000]))
        }
        _ => Act::Say(honest),
    };
    let manner = Manner::new(Framing::Structured, script);
    let commands = &[INFO, LIST, &["map", "URI"], &["read", "URI"]];
    Case { name: "a long refusal", manner, commands, says: "xxx..." }.fails();
}

#[test]
fn what_a_request_failed_for_stays_text() {
    let script: Script = |asked, honest| match asked {
        Asked::Request(request) => {
            let text = [EVIL, &"x".repeat(4000)].concat();
            let len = u16::try_from(text.len()).expect("short");
            let payload = [&5_u32.to_be_bytes()[..], &len.to_be_bytes(), text.as_bytes()].concat();
            Act::Say(chunk(request, DONE, ERROR, &payload))
        }
        _ => Act::Say(honest),
    };
    let manner = Manner::new(Framing::Structured, script);
    Case { name: "a failure that is evil", manner, commands: ENTERING, says: "EIO" }.fails();
}

#[test]
fn a_name_that_this_end_says_stays_text() {
    let script: Script = |asked, honest| match asked {
        Asked::Option { code: code @ 7, .. } => Act::Say(reply(*code, POLICY, b"no")),
        _ => Act::Say(honest),
    };
    let server = Server::start(Manner::new(Framing::Structured, script));
    let uri = server.uri.replace(":///", ":///%1b%5b2J%e2%80%ae");
    let line = judge(&["read"], &run(&server, &["read", &uri])).expect("an error");
    assert!(line.contains("%1B%5B2J") || line.contains("%1b%5b2J"), "{line}");
}
