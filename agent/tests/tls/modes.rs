//! `--tls`: off, on, require, and what there is without it.

use std::io::{BufRead, Read, Write};

use crate::{
    agent::Agent,
    client::{
        ACK, ERR_INVALID, ERR_TLS_REQD, ERR_UNSUP, GO, INFO, LIST, SET_META_CONTEXT, STARTTLS,
        STRUCTURED_REPLY, agent, ask, go, option_bytes, plain, secured, size, uri,
    },
};

/// The queries of SET_META_CONTEXT: `base:allocation` of the default export.
const ALLOCATION: &[u8] = b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";

#[test]
fn require_shows_a_plain_client_nothing() {
    let (agent, _ca) = agent("--tls=require memory 1M");
    let mut stream = plain(&agent);
    for option in [LIST, INFO, GO, STRUCTURED_REPLY, SET_META_CONTEXT, 4711] {
        for data in [&b""[..], &[0; 6], &[0; 9000]] {
            assert_eq!(ask(&mut stream, option, data), [ERR_TLS_REQD], "{option}");
        }
    }
    // NBD_OPT_EXPORT_NAME can only be refused by closing.
    stream.write_all(&option_bytes(1, b"")).unwrap();
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
    assert_eq!(ask(&mut stream, STARTTLS, b""), [ERR_UNSUP]);
    go(&mut stream);
    size(&uri(&agent, "nbds", "trust")).unwrap_err();
}

#[test]
fn a_second_starttls_is_invalid_and_the_session_lives() {
    let (agent, _ca) = agent("--tls=require memory 1M");
    let mut secure = secured(&agent);
    assert_eq!(ask(&mut secure, STARTTLS, b""), [ERR_INVALID]);
    go(&mut secure);
}

#[test]
fn what_was_agreed_in_plain_text_is_gone_inside_tls() {
    let (agent, _ca) = agent("--tls=on memory 1M");
    let mut stream = plain(&agent);
    assert_eq!(ask(&mut stream, STRUCTURED_REPLY, b""), [ACK]);
    assert_eq!(ask(&mut stream, SET_META_CONTEXT, ALLOCATION).len(), 2);
    assert_eq!(ask(&mut stream, STARTTLS, b""), [ACK]);
    let mut secure = crate::client::handshake(&agent, stream);
    assert_eq!(ask(&mut secure, SET_META_CONTEXT, ALLOCATION), [ERR_INVALID]);
    go(&mut secure);
    secure.write_all(&crate::agent::request(0, 0, 8)).unwrap();
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
    let agent = Agent::start("-U {}/socket memory 1M");
    assert_eq!(ask(&mut plain(&agent), STARTTLS, b""), [ERR_UNSUP]);
}

/// Without `--tls` nobody comes in who cannot be verified; nbdkit's words mean what nbdkit makes of them.
#[test]
fn verify_peer_requires_tls_unless_on_is_said() {
    const WARNING: &str = "clients without TLS are let in and not verified";
    for (words, refused) in [
        ("--tls-verify-peer memory 1M", true),
        ("--tls=require --tls-verify-peer memory 1M", true),
        ("--tls=on --tls-verify-peer memory 1M", false),
    ] {
        let (mut agent, ca) = agent(words);
        ca.client_in(&agent.path("client"), crate::certificates::client(7));
        let plain_answer = size(&uri(&agent, "nbd", "trust"));
        assert_eq!(plain_answer.is_err(), refused, "{words}: {plain_answer:?}");
        if refused {
            assert_eq!(ask(&mut plain(&agent), GO, &[0; 6]), [ERR_TLS_REQD]);
        }
        assert_eq!(size(&uri(&agent, "nbds", "client")), Ok(1 << 20), "{words}");
        size(&uri(&agent, "nbds", "trust")).unwrap_err();
        let warned = agent.end().iter().any(|line| line.contains(WARNING));
        assert_eq!(warned, !refused, "{words}");
    }
    let ca = crate::certificates::Ca::new("the CA");
    let dir = tempfile::tempdir().unwrap();
    let nbdkit = dir.path().join("nbdkit");
    std::os::unix::fs::symlink(crate::agent::BINARY, &nbdkit).unwrap();
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
