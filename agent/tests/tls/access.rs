//! Rules about the names in a client's certificate: `dn:` and `issuer-dn:`.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
};

use nix::sys::signal::Signal;
use support::{
    agent::Agent,
    certificates::client,
    client::ask,
    process::{refused, succeeds},
    wire::{OPT_GO, OPT_INFO, OPT_LIST, OPT_STRUCTURED, REP_ERR_TLS_REQD, option},
};

use crate::{
    BINARY,
    client::{Guest, agent, plain, size, uri},
};

/// An agent that requires TLS, and admits a client whose name is `CN=guest 7,O=Test\, Inc.`.
fn agent_for_guest_7(words: &str) -> Agent {
    let (agent, ca) = agent(&format!("--tls=require --tls-verify-peer memory 1M {words}"));
    ca.client_in(&agent.path("client"), client(7));
    agent
}

#[test]
fn the_names_in_a_certificate_decide() {
    for (words, let_in) in [
        ("--filter=ip allow=dn:CN=guest?7,O=Test* deny=all", true),
        (r"--filter=ip allow=dn:CN=guest?7\,* deny=all", true),
        ("--filter=ip allow=dn:CN=guest?7 deny=all", false),
        ("--filter=ip allow=vsock-guest,dn:CN=guest?8* deny=all", false),
        ("--filter=ip allow=issuer-dn:CN=the?CA* deny=all", true),
        ("--filter=ip allow=issuer-dn:CN=guest* deny=all", false),
        ("--filter=ip deny=dn:*guest*", false),
        ("--filter=ip deny=dn:*stranger*,vsock-guest", true),
        ("--allow dn:CN=guest?[0-9]*", true),
        ("--allow-cid 3 --allow dn:CN=guest?[!0-9]*", false),
        // Both filters have to admit it.
        ("--allow anyunix --filter=ip deny=issuer-dn:*", false),
    ] {
        let agent = agent_for_guest_7(words);
        let answer = size(&uri(&agent, "nbds", "client"));
        assert_eq!(answer.is_ok(), let_in, "{words}: {answer:?}");
        if let Err(said) = answer {
            assert!(said.contains("server policy prevents NBD_OPT_GO"), "{words}: {said}");
            let line = agent.wait_for_line("refused peer").pop().unwrap();
            assert!(line.contains("peer=unix:pid=") && line.contains(r#"export="""#), "{line}");
        }
    }
}

#[test]
fn a_client_refused_by_its_certificate_sees_nothing_and_is_logged_once() {
    let mut agent = agent_for_guest_7("--allow dn:CN=guest?8*");
    let script = format!(
        "import nbd
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.set_opt_mode(True)
h.connect_uri({:?})
h.set_export_name('secret')
for ask in [lambda: h.opt_list(print), h.opt_info, h.opt_go]:
    try:
        ask()
        print('answered')
    except nbd.Error:
        print('no')
h.opt_abort()",
        uri(&agent, "nbds", "client")
    );
    let said = succeeds("/usr/bin/python3", "python3-libnbd", &["-c", &script]);
    assert_eq!(said, "no\nno\nno\n");
    let lines = agent.end();
    let refused: Vec<_> = lines.iter().filter(|line| line.contains("refused peer")).collect();
    assert_eq!(refused.len(), 1, "{lines:#?}");
    for part in [r#"export="secret""#, "rule=not named by --allow"] {
        assert!(refused[0].contains(part), "no {part} in {refused:?}");
    }
}

#[test]
fn a_client_admitted_by_its_certificate_is_judged_by_it_again() {
    for (rules, stays) in [
        ("deny dn:CN=guest?7*\nallow any", false),
        ("deny dn:CN=guest?8*\nallow any", true),
        ("allow dn:CN=guest?7*", true),
        ("allow issuer-dn:CN=guest*", false),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "allow dn:*\n").unwrap();
        let agent = agent_for_guest_7(&format!("--access-file {}", file.path().display()));
        let mut client = Guest::connect(&uri(&agent, "nbds", "client"));
        // The client may learn of it before the session can be closed by a rule.
        agent.wait_for_line(" opened ");
        fs::write(&file, rules).unwrap();
        agent.signal(Signal::SIGHUP);
        agent.wait_for_line("access rules read again");
        if !stays {
            agent.wait_for_line("end=cut off: the access rules were changed: ");
        }
        assert_eq!(client.is_in(), stays, "{rules}");
    }
}

#[test]
fn a_client_without_a_certificate_is_told_that_tls_is_required() {
    let (mut agent, _ca) =
        agent("--tls=on --tls-verify-peer memory 1M --allow dn:*,uid:4000000000");
    let mut stream = plain(&agent);
    // Options that have nothing to do with exports still work.
    assert_eq!(ask(&mut stream, OPT_STRUCTURED, b""), [1]);
    for (option, data) in [(OPT_LIST, &b""[..]), (OPT_INFO, &[0; 6]), (OPT_GO, &[0; 6])] {
        assert_eq!(ask(&mut stream, option, data), [REP_ERR_TLS_REQD], "option {option}");
    }
    // NBD_OPT_EXPORT_NAME can be refused only by closing.
    stream.write_all(&option(1, b"secret")).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let lines = agent.end();
    let refused: Vec<_> = lines.iter().filter(|line| line.contains("refused peer")).collect();
    assert!(refused.len() == 1 && refused[0].contains(r#"export="secret""#), "{lines:#?}");
}

#[test]
fn a_certificate_that_changes_nothing_is_not_waited_for() {
    let (agent, _ca) = agent("--tls=on --tls-verify-peer memory 1M --filter=ip deny=anyunix,dn:*");
    let mut stream = UnixStream::connect(agent.path("socket")).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"", "it is refused before a byte is sent");
}

#[test]
fn without_client_certificates_such_a_rule_is_an_error() {
    let (agent, _ca) = agent("memory 1M");
    let certificates = agent.path("server");
    let rules = agent.path("rules");
    fs::write(&rules, "dn:CN=me\n").unwrap();
    let rules = format!("--access-file {}", rules.display());
    for (words, part) in [
        ("--filter=ip allow=dn:CN=me deny=all", "filter ip: the rule dn:CN=me"),
        ("--allow issuer-dn:*", "--allow: the rule issuer-dn:*"),
        (&rules, "--access-file: the rule dn:CN=me"),
    ] {
        for tls in ["--tls=off", "--tls=require"] {
            let mut command = Command::new(BINARY);
            command.arg("-U").arg(agent.path("other")).arg("--tls-certificates").arg(&certificates);
            command.args([tls, "null", "1M"]).args(words.split_whitespace());
            let stderr = refused(&mut command);
            assert!(stderr.contains(part) && stderr.contains("--tls-verify-peer"), "{stderr}");
        }
    }
}
