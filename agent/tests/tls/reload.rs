//! Certificates and revocation lists that are renewed while the agent runs, and expired ones.

use std::{
    fs,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use support::{
    agent::Agent,
    certificates::{Ca, client},
    client::ask,
    wire::{OPT_STARTTLS, REP_ACK},
};

use crate::{
    BINARY,
    client::{Guest, agent, handshake, plain, size, uri},
};

const DAY: u64 = 24 * 60 * 60;

/// The time this many seconds from now, as seconds since 1970.
fn from_now(seconds: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    Duration::from_secs(now.checked_add_signed(seconds).unwrap())
}

fn hang_up(agent: &Agent, expected: &str) -> String {
    agent.signal(Signal::SIGHUP);
    agent.wait_for_line(expected).pop().unwrap()
}

const READ_AGAIN: &str = "/server read again; open connections go on";
const JUDGED_AGAIN: &str = "/server read again; connections of clients that they refuse are closed";

/// An agent that verifies clients, and two clients with certificates of its CA.
fn verifies_seven_and_eight() -> (Agent, Ca) {
    let (agent, ca) = agent("--tls-verify-peer memory 1M");
    for (name, serial) in [("seven", 7), ("eight", 8)] {
        ca.client_in(&agent.path(name), client(serial));
    }
    (agent, ca)
}

#[test]
fn a_renewed_revocation_list_counts_from_hup_on() {
    let (agent, ca) = verifies_seven_and_eight();
    let server = agent.path("server");
    let let_in = |name: &str| size(&uri(&agent, "nbds", name)).is_ok();
    assert!(let_in("seven") && let_in("eight"));
    ca.revoke_in(&server, 7, 2098);
    assert!(let_in("seven"), "nothing was said yet");
    hang_up(&agent, JUDGED_AGAIN);
    assert!(!let_in("seven") && let_in("eight"));
    // After its next-update time a list admits no client, until there is a newer list.
    ca.revoke_until(&server, 7, from_now(-10));
    let line = hang_up(&agent, "was to be renewed by");
    assert!(line.contains("server/ca-crl.pem") && line.contains("ERROR"), "{line}");
    assert!(line.contains("no client's certificate is taken until it is"), "{line}");
    assert!(!let_in("eight"));
    // Lines of earlier sessions may be logged after the line of the HUP.
    let line = agent.wait_for_line("renew it and send HUP").pop().unwrap();
    assert!(line.contains("session"), "{line}");
    ca.revoke_in(&server, 8, 2098);
    hang_up(&agent, JUDGED_AGAIN);
    assert!(let_in("seven") && !let_in("eight"));
    // The file may be missing only for a moment.
    fs::remove_file(server.join("ca-crl.pem")).unwrap();
    let line = hang_up(&agent, "stay as they were read before");
    assert!(line.contains("ca-crl.pem was there before and is gone"), "{line}");
    assert!(let_in("seven") && !let_in("eight"));
}

#[test]
fn a_connected_client_with_a_revoked_certificate_is_closed_at_hup() {
    let (agent, ca) = verifies_seven_and_eight();
    let server = agent.path("server");
    let mut seven = Guest::connect(&uri(&agent, "nbds", "seven"));
    let mut eight = Guest::connect(&uri(&agent, "nbds", "eight"));
    assert!(seven.is_in() && eight.is_in());
    // An expired list says nothing about connected clients.
    ca.revoke_until(&server, 9, from_now(-10));
    hang_up(&agent, JUDGED_AGAIN);
    assert!(seven.is_in() && eight.is_in());
    ca.revoke_in(&server, 7, 2098);
    hang_up(&agent, JUDGED_AGAIN);
    let line = agent.wait_for_line("end=cut off").pop().unwrap();
    assert!(line.contains("the client's certificate is revoked by ca-crl.pem"), "{line}");
    assert!(!seven.is_in(), "it was sent away");
    assert!(eight.is_in());
    // The new CA vouches for none of the connected clients.
    Ca::new("the new CA").server_in(&server);
    fs::remove_file(server.join("ca-crl.pem")).unwrap();
    hang_up(&agent, JUDGED_AGAIN);
    agent.wait_for_line("is not signed by the CA in ca-cert.pem");
    assert!(!eight.is_in());
}

#[test]
fn a_renewed_certificate_counts_from_hup_on() {
    let (agent, old) = agent("--tls=require memory 1M");
    let new = Ca::new("the new CA");
    // libnbd does not verify servers over a Unix socket.
    let is_trusted = |ca: &Ca| {
        ca.trusted_in(&agent.path("trust"));
        let mut stream = plain(&agent);
        assert_eq!(ask(&mut stream, OPT_STARTTLS, b""), [REP_ACK]);
        let mut secure = handshake(&agent, stream);
        secure.conn.complete_io(&mut secure.sock).is_ok()
    };
    assert!(is_trusted(&old) && !is_trusted(&new));
    new.server_in(&agent.path("server"));
    assert!(is_trusted(&old) && !is_trusted(&new));
    hang_up(&agent, READ_AGAIN);
    assert!(!is_trusted(&old) && is_trusted(&new));
}

#[test]
fn of_files_that_do_not_fit_together_none_is_taken() {
    let (agent, ca) = agent("--tls-verify-peer memory 1M");
    let server = agent.path("server");
    ca.client_in(&agent.path("client"), client(7));
    let other = Ca::new("another");
    for (file, contents, part) in [
        ("server-key.pem", Some("hello\n"), "there is no private key in"),
        ("server-cert.pem", None, "cannot read"),
        ("ca-cert.pem", Some(""), "there is no certificate in"),
        ("ca-crl.pem", Some("hello\n"), "no certificate revocation list in"),
    ] {
        other.server_in(&server);
        match contents {
            Some(contents) => fs::write(server.join(file), contents).unwrap(),
            None => fs::remove_file(server.join(file)).unwrap(),
        }
        let line = hang_up(&agent, "stay as they were read before");
        assert!(line.contains("ERROR") && line.contains(part), "{line}");
        assert!(line.contains(&format!("server/{file}")), "{line}");
        assert_eq!(size(&uri(&agent, "nbds", "client")), Ok(1 << 20), "{file}: the old ones hold");
    }
    fs::remove_file(server.join("ca-crl.pem")).unwrap();
    // A pipe would block the agent for ever.
    ca.server_in(&server);
    fs::remove_file(server.join("server-key.pem")).unwrap();
    nix::unistd::mkfifo(&server.join("server-key.pem"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let line = hang_up(&agent, "stay as they were read before");
    assert!(line.contains("is not a regular file"), "{line}");
    assert_eq!(size(&uri(&agent, "nbds", "client")), Ok(1 << 20));
}

/// The agent with a server certificate that expires then.
fn until(seconds: i64, words: &str) -> (Agent, Ca) {
    let ca = Ca::new("the CA");
    let agent = Agent::start_by_in(
        Command::new(BINARY),
        |directory| {
            ca.server_until(&directory.join("server"), from_now(seconds));
            ca.revoke_until(&directory.join("server"), 7, from_now(seconds));
        },
        &format!("-U {{}}/socket --tls-certificates {{}}/server {words} memory 1M"),
    );
    (agent, ca)
}

#[test]
fn expiry_is_reported_at_start_and_at_hup() {
    let days = |days: u64| i64::try_from(days * DAY + 60).unwrap();
    for (seconds, words, expected, silent) in [
        (days(15), "--tls-verify-peer", &[][..], &["server-cert.pem", "ca-crl.pem"][..]),
        (
            days(13),
            "--tls-verify-peer",
            &["server/server-cert.pem expires at", "server/ca-crl.pem is to be renewed by"],
            &[],
        ),
        // No client is asked for a certificate, so the list has no effect.
        (
            days(13),
            "",
            &["(in 13 days): clients refuse this server then; renew it"],
            &["ca-crl.pem"],
        ),
        (
            -days(1),
            "--tls-verify-peer",
            &["server-cert.pem has expired at", "no client's certificate is taken until it is"],
            &[],
        ),
    ] {
        let (mut agent, _ca) = until(seconds, words);
        agent.signal(Signal::SIGHUP);
        let mut lines = agent.wait_for_line("read again");
        lines.extend(agent.end());
        let level = if seconds < 0 { "ERROR" } else { " WARN" };
        for part in expected {
            let found: Vec<_> = lines.iter().filter(|line| line.contains(part)).collect();
            assert_eq!(found.len(), 2, "{part}: at start, and at HUP: {lines:#?}");
            assert!(found[0].contains(level), "{found:#?}");
        }
        for part in silent {
            assert!(!lines.iter().any(|line| line.contains(part)), "{part}: {lines:#?}");
        }
    }
}

#[test]
fn expiry_while_the_agent_runs_is_reported_then() {
    let (agent, _ca) = until(4, "--tls-verify-peer");
    agent.wait_for_line("in less than a day");
    agent.wait_for_line("server-cert.pem has expired at");
    agent.wait_for_line("ca-crl.pem was to be renewed by");
}
