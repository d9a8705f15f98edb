//! `--tls-verify-peer`: which clients are admitted, and what the log says about the others.

use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use support::{
    agent::Agent,
    certificates::{Ca, client},
};

use crate::BINARY;
use crate::client::{agent, size, uri};

#[test]
fn a_certificate_of_the_ca_is_let_in_and_its_owner_is_logged() {
    let (agent, ca) = agent("--tls=require --tls-verify-peer memory 1M");
    ca.client_in(&agent.path("client"), client(7));
    assert_eq!(size(&uri(&agent, "nbds", "client")), Ok(1 << 20));
    let line = agent.wait_for_line("inside TLS").pop().unwrap();
    assert!(line.contains(r#""CN=guest 7,O=Test\\, Inc." issued by "CN=the CA,O="#), "{line}");
}

#[test]
fn without_verify_peer_no_client_is_asked_for_a_certificate() {
    let (agent, ca) = agent("--tls=require memory 1M");
    Ca::new("another").client_in(&agent.path("client"), client(7));
    ca.trusted_in(&agent.path("client"));
    assert_eq!(size(&uri(&agent, "nbds", "client")), Ok(1 << 20));
    assert_eq!(size(&uri(&agent, "nbds", "trust")), Ok(1 << 20));
}

#[test]
fn a_client_that_cannot_be_verified_is_refused_by_reason() {
    let (agent, ca) = agent("--tls=require --tls-verify-peer memory 1M");
    let mut expired = client(1);
    expired.not_after = date_time_ymd(2002, 1, 1);
    let mut future = client(2);
    future.not_before = date_time_ymd(2098, 1, 1);
    let mut servers = client(3);
    servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for (name, ca, params) in [
        ("stranger", &Ca::new("the CA"), client(7)),
        ("expired", &ca, expired),
        ("future", &ca, future),
        ("servers", &ca, servers),
    ] {
        ca.client_in(&agent.path(name), params);
    }
    // All of them trust the server.
    ca.trusted_in(&agent.path("stranger"));
    for (name, reason) in [
        ("trust", "has no certificate (--tls-verify-peer)"),
        ("stranger", "TLS failed: the client's certificate"),
        ("expired", "expired"),
        ("future", "not valid yet"),
        ("servers", "TLS failed: the client's certificate"),
    ] {
        size(&uri(&agent, "nbds", name)).unwrap_err();
        let line = agent.wait_for_line("session").pop().unwrap();
        assert!(line.contains(reason), "{name}: {line}");
        assert!(line.contains("requests=0"), "{line}");
    }
    ca.client_in(&agent.path("client"), client(7));
    assert_eq!(size(&uri(&agent, "nbds", "client")), Ok(1 << 20), "others are not disturbed");
}

/// Ends an agent, and starts one that verifies clients with the same certificates.
fn verifies(first: &mut Agent) -> Agent {
    first.end();
    Agent::start(
        BINARY,
        &format!(
            "-U {{}}/socket --tls=require --tls-verify-peer --tls-certificates {} memory 1M",
            first.path("server").display()
        ),
    )
}

#[test]
fn a_revoked_certificate_is_refused_and_others_are_not() {
    let (mut first, ca) = agent("--tls=require memory 1M");
    ca.revoke_in(&first.path("server"), 7, 2090);
    let agent = verifies(&mut first);
    ca.client_in(&agent.path("revoked"), client(7));
    ca.client_in(&agent.path("client"), client(8));
    size(&uri(&agent, "nbds", "revoked")).unwrap_err();
    let line = agent.wait_for_line("session").pop().unwrap();
    assert!(line.contains("is revoked by ca-crl.pem"), "{line}");
    assert_eq!(size(&uri(&agent, "nbds", "client")), Ok(1 << 20));
}

#[test]
fn an_expired_revocation_list_lets_no_client_in() {
    let (mut first, ca) = agent("--tls=require memory 1M");
    ca.revoke_in(&first.path("server"), 7, 2003);
    let agent = verifies(&mut first);
    ca.client_in(&agent.path("client"), client(8));
    size(&uri(&agent, "nbds", "client")).unwrap_err();
    let line = agent.wait_for_line("session").pop().unwrap();
    assert!(line.contains("past its next update"), "{line}");
}
