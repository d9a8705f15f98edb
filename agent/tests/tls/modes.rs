//! `--tls`: off, on, require, and the behaviour without the option.

use std::io::{BufRead, Read, Write};

use support::{
    agent::Agent,
    client::ask,
    wire::{
        OPT_GO, OPT_INFO, OPT_LIST, OPT_SET_CONTEXT, OPT_STARTTLS, OPT_STRUCTURED, REP_ACK,
        REP_ERR_INVALID, REP_ERR_TLS_REQD, REP_ERR_UNSUP, option,
    },
};

use crate::{
    BINARY,
    client::{agent, go, plain, secured, size, uri},
};

/// The queries of SET_META_CONTEXT: `base:allocation` of the default export.
const ALLOCATION: &[u8] = b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";

#[test]
fn require_shows_a_plain_client_nothing() {
    let (agent, _ca) = agent("--tls=require memory 1M");
    let mut stream = plain(&agent);
    for option in [OPT_LIST, OPT_INFO, OPT_GO, OPT_STRUCTURED, OPT_SET_CONTEXT, 4711] {
        for data in [&b""[..], &[0; 6], &[0; 9000]] {
            assert_eq!(ask(&mut stream, option, data), [REP_ERR_TLS_REQD], "{option}");
        }
    }
    // NBD_OPT_EXPORT_NAME can be refused only by closing.
    stream.write_all(&option(1, b"")).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let line = agent.wait_for_line("session").pop().unwrap();
    assert!(line.contains("TLS is required"), "{line}");
}

#[test]
fn require_refuses_libnbds_plain_client_and_takes_the_one_with_tls() {
    let (agent, _ca) = agent("--tls=require memory 1M");
    let refused = size(&uri(&agent, "nbd", "trust")).unwrap_err();
    assert!(refused.contains("TLS"), "{refused}");
    assert_eq!(size(&uri(&agent, "nbds", "trust")), Ok(1 << 20));
}

#[test]
fn on_takes_plain_clients_too() {
    for words in ["--tls=on memory 1M", "memory 1M"] {
        let (agent, _ca) = agent(words);
        assert_eq!(size(&uri(&agent, "nbd", "trust")), Ok(1 << 20), "{words}");
        assert_eq!(size(&uri(&agent, "nbds", "trust")), Ok(1 << 20), "{words}");
    }
}

#[test]
fn off_refuses_starttls_and_the_session_lives() {
    let (agent, _ca) = agent("--tls=off memory 1M");
    let mut stream = plain(&agent);
    assert_eq!(ask(&mut stream, OPT_STARTTLS, b""), [REP_ERR_UNSUP]);
    go(&mut stream);
    size(&uri(&agent, "nbds", "trust")).unwrap_err();
}

#[test]
fn a_second_starttls_is_invalid_and_the_session_lives() {
    let (agent, _ca) = agent("--tls=require memory 1M");
    let mut secure = secured(&agent);
    assert_eq!(ask(&mut secure, OPT_STARTTLS, b""), [REP_ERR_INVALID]);
    go(&mut secure);
}

#[test]
fn agreements_in_plain_text_are_gone_inside_tls() {
    let (agent, _ca) = agent("--tls=on memory 1M");
    let mut stream = plain(&agent);
    assert_eq!(ask(&mut stream, OPT_STRUCTURED, b""), [REP_ACK]);
    assert_eq!(ask(&mut stream, OPT_SET_CONTEXT, ALLOCATION).len(), 2);
    assert_eq!(ask(&mut stream, OPT_STARTTLS, b""), [REP_ACK]);
    let mut secure = crate::client::handshake(&agent, stream);
    assert_eq!(ask(&mut secure, OPT_SET_CONTEXT, ALLOCATION), [REP_ERR_INVALID]);
    go(&mut secure);
    secure.write_all(&support::wire::request(0, 7, 0, 8)).unwrap();
    let mut reply = [0; 24];
    secure.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], 0x6744_6698_u32.to_be_bytes(), "a simple reply");
}

#[test]
fn the_uri_says_that_tls_is_required() {
    for (mode, scheme) in [("off", "nbd"), ("on", "nbd"), ("require", "nbds")] {
        let words = format!("--tls={mode} --print-uri --listen tcp:127.0.0.1:0 memory 1M");
        let (mut agent, _ca) = agent(&words);
        let uris: Vec<_> = agent.stdout().lines().take(2).map(Result::unwrap).collect();
        assert!(uris[0].starts_with(&format!("{scheme}+unix:///")), "{uris:?}");
        assert!(uris[1].starts_with(&format!("{scheme}://127.0.0.1:")), "{uris:?}");
    }
}

#[test]
fn without_certificates_anywhere_there_is_no_tls() {
    let agent = Agent::start(BINARY, "-U {}/socket memory 1M");
    assert_eq!(ask(&mut plain(&agent), OPT_STARTTLS, b""), [REP_ERR_UNSUP]);
}

/// Without `--tls` only clients that can be verified are admitted. nbdkit's options have the same meaning
/// as in nbdkit.
#[test]
fn verify_peer_requires_tls_unless_on_is_said() {
    const WARNING: &str = "clients without TLS are let in and not verified";
    for (words, refused) in [
        ("--tls-verify-peer memory 1M", true),
        ("--tls=require --tls-verify-peer memory 1M", true),
        ("--tls=on --tls-verify-peer memory 1M", false),
    ] {
        let (mut agent, ca) = agent(words);
        ca.client_in(&agent.path("client"), support::certificates::client(7));
        let plain_answer = size(&uri(&agent, "nbd", "trust"));
        assert_eq!(plain_answer.is_err(), refused, "{words}: {plain_answer:?}");
        if refused {
            assert_eq!(ask(&mut plain(&agent), OPT_GO, &[0; 6]), [REP_ERR_TLS_REQD]);
        }
        assert_eq!(size(&uri(&agent, "nbds", "client")), Ok(1 << 20), "{words}");
        size(&uri(&agent, "nbds", "trust")).unwrap_err();
        let warned = agent.end().iter().any(|line| line.contains(WARNING));
        assert_eq!(warned, !refused, "{words}");
    }
    let ca = support::certificates::Ca::new("the CA");
    let dir = tempfile::tempdir().unwrap();
    let nbdkit = dir.path().join("nbdkit");
    std::os::unix::fs::symlink(BINARY, &nbdkit).unwrap();
    let mut agent = Agent::start_by_in(
        std::process::Command::new(nbdkit),
        |directory| {
            ca.server_in(&directory.join("server"));
            ca.trusted_in(&directory.join("trust"));
        },
        "-f -U {}/socket --tls-certificates {}/server --tls-verify-peer memory 1M",
    );
    assert_eq!(size(&uri(&agent, "nbd", "trust")), Ok(1 << 20));
    size(&uri(&agent, "nbds", "trust")).unwrap_err();
    assert!(agent.end().iter().any(|line| line.contains(WARNING)));
}
