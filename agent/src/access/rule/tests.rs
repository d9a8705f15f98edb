use std::cell::Cell;

use vsock_cid::Cid;

use super::*;
use crate::tls::Certificate;

fn rule(text: &str) -> Rule {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_rule_is_printed_in_its_canonical_form() {
    for (text, printed) in [
        ("any", "any"),
        ("ALL", "any"),
        ("allipv4", "anyipv4"),
        ("AnyIPv6", "anyipv6"),
        ("allunix", "anyunix"),
        ("anyvsock", "anyvsock"),
        ("127.0.0.1", "127.0.0.1"),
        ("192.168.0.0/24", "192.168.0.0/24"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::1", "::1"),
        ("::", "::"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::/0", "::/0"),
        ("pid:1", "pid:1"),
        ("PID:100-200", "pid:100-200"),
        ("uid:0", "uid:0"),
        ("uid:0x3e8-1999", "uid:1000-1999"),
        ("gid:4294967295", "gid:4294967295"),
        ("vsock-cid:3", "vsock-cid:3"),
        ("vsock-cid:3-9", "vsock-cid:3-9"),
        ("Vsock-Port:0-1023", "vsock-port:0-1023"),
        ("security:unconfined", "security:unconfined"),
        (r"security:a\,b\\c\d", r"security:a\,b\\c\\d"),
        ("dn:CN=a", "dn:CN=a"),
        ("Issuer-DN:CN=*", "issuer-dn:CN=*"),
        ("vsock-guest", "vsock-guest"),
        ("vsock-guest:3-9", "vsock-guest:3-9"),
        ("VSOCK-LOCAL", "vsock-local"),
        ("vsock-hypervisor", "vsock-hypervisor"),
        ("vsock-sibling", "vsock-sibling"),
    ] {
        assert_eq!(rule(text).to_string(), printed, "{text}");
        assert_eq!(rule(printed), rule(text), "{text}");
    }
}

#[test]
fn a_text_that_is_no_rule_is_refused_with_a_reason() {
    use RuleError::{Empty, Nothing, Number, Prefix, Unknown};
    for (text, kind) in [
        ("", Empty),
        ("nobody", Unknown(String::new())),
        ("anyone", Unknown(String::new())),
        ("any ", Unknown(String::new())),
        ("host.example.com", Unknown(String::new())),
        ("1.2.3", Unknown(String::new())),
        ("1.2.3.4.5", Unknown(String::new())),
        ("01.2.3.4", Unknown(String::new())),
        ("1.2.3.4:80", Unknown(String::new())),
        ("[::1]", Unknown(String::new())),
        ("fe80::1%lo", Unknown(String::new())),
        ("/8", Unknown(String::new())),
        ("vsock-cidd:3", Unknown(String::new())),
        ("vsock-local:1", Unknown(String::new())),
        ("10.0.0.0/33", Prefix(String::new())),
        ("10.0.0.0/", Prefix(String::new())),
        ("10.0.0.0/-1", Prefix(String::new())),
        ("::1/129", Prefix(String::new())),
        ("pid:0", Number(String::new(), "")),
        ("pid:", Number(String::new(), "")),
        ("uid:-1", Number(String::new(), "")),
        ("uid:root", Number(String::new(), "")),
        ("uid:9-3", Number(String::new(), "")),
        ("vsock-cid:4294967296", Number(String::new(), "")),
        ("vsock-guest:2-9", Number(String::new(), "")),
        ("vsock-guest:", Number(String::new(), "")),
        ("security:", Nothing(String::new())),
        ("dn:", Nothing(String::new())),
        ("issuer-dn:", Nothing(String::new())),
    ] {
        let error = text.parse::<Rule>().expect_err(text);
        assert_eq!(
            std::mem::discriminant(&error),
            std::mem::discriminant(&kind),
            "{text}: {error}"
        );
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
}

#[test]
fn each_rule_names_its_peers() {
    let tcp = |address: &str| Peer::Tcp(format!("{address}:1").parse().unwrap());
    let (v4, v6) = (tcp("192.168.0.7"), tcp("[2001:db8::7]"));
    let mapped = tcp("[::ffff:192.168.0.7]");
    let unix = Peer::Unix { pid: 77, uid: 1000, gid: 100 };
    let unknown = Peer::Unix { pid: 0, uid: 0, gid: 0 };
    let guest = Peer::Vsock { cid: Cid::new(5), port: 1023, to: Cid::HOST };
    let local = Peer::Vsock { cid: Cid::new(1), port: 7, to: Cid::new(1) };
    let hypervisor = Peer::Vsock { cid: Cid::new(2), port: 7, to: Cid::new(5) };
    let sibling = Peer::Vsock { cid: Cid::new(5), port: 7, to: Cid::new(6) };
    let all = [
        ("v4", &v4),
        ("v6", &v6),
        ("mapped", &mapped),
        ("unix", &unix),
        ("unknown", &unknown),
        ("guest", &guest),
        ("local", &local),
        ("hypervisor", &hypervisor),
        ("sibling", &sibling),
        ("pipe", &Peer::Pipe),
    ];
    for (text, named) in [
        (
            "any",
            &[
                "v4",
                "v6",
                "mapped",
                "unix",
                "unknown",
                "guest",
                "local",
                "hypervisor",
                "sibling",
                "pipe",
            ][..],
        ),
        ("anyipv4", &["v4", "mapped"]),
        ("anyipv6", &["v6"]),
        ("anyunix", &["unix", "unknown"]),
        ("anyvsock", &["guest", "local", "hypervisor", "sibling"]),
        ("192.168.0.7", &["v4", "mapped"]),
        ("192.168.0.8", &[]),
        ("192.168.0.255/24", &["v4", "mapped"]),
        ("192.168.0.6/31", &["v4", "mapped"]),
        ("192.168.0.5/31", &[]),
        ("0.0.0.0/0", &["v4", "mapped"]),
        ("::ffff:192.168.0.0/112", &["v4", "mapped"]),
        ("2001:db8::7", &["v6"]),
        ("2001:db8::/32", &["v6"]),
        ("2001:db9::/32", &[]),
        ("2001:db9::/31", &["v6"]),
        ("::/0", &["v6"]),
        ("pid:77", &["unix"]),
        ("pid:78-99", &[]),
        ("uid:1000", &["unix"]),
        ("uid:0", &["unknown"]),
        ("uid:999-1001", &["unix"]),
        ("gid:100", &["unix"]),
        ("gid:1000", &[]),
        ("vsock-cid:5", &["guest", "sibling"]),
        ("vsock-cid:1-2", &["local", "hypervisor"]),
        ("vsock-port:0-1023", &["guest", "local", "hypervisor", "sibling"]),
        ("vsock-port:1023", &["guest"]),
        ("vsock-guest", &["guest"]),
        ("vsock-guest:3-5", &["guest"]),
        ("vsock-guest:6-9", &[]),
        ("vsock-local", &["local"]),
        ("vsock-hypervisor", &["hypervisor"]),
        ("vsock-sibling", &["sibling"]),
        ("security:label", &[]),
    ] {
        let matched: Vec<_> = all
            .iter()
            .filter(|(_, peer)| rule(text).matches(&Caller::new(peer, &|| None)) == Match::Yes)
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(matched, named, "{text}");
    }
}

#[test]
fn the_label_is_looked_up_once_and_only_for_rules_about_labels() {
    let asked = Cell::new(0);
    let ask = || {
        asked.set(asked.get() + 1);
        Some("u:r:t:s0:c1,c2".to_owned())
    };
    let caller = Caller::new(&Peer::Pipe, &ask);
    assert_eq!(rule("any").matches(&caller), Match::Yes);
    assert_eq!(rule("uid:0").matches(&caller), Match::No);
    assert_eq!(asked.get(), 0);
    assert_eq!(rule("security:u:r:t:s0:c1,c2").matches(&caller), Match::Yes);
    assert_eq!(rule("security:u:r:t:s0:c1").matches(&caller), Match::No);
    assert_eq!(asked.get(), 1);
}

#[test]
fn rules_about_certificates_wait_for_the_handshake() {
    let shown =
        Certificate { dn: "CN=me,O=BigCo".into(), issuer_dn: "CN=BigCo".into(), chain: Vec::new() };
    let caller = || Caller::new(&Peer::Pipe, &|| None);
    for (text, matches) in [
        ("dn:CN=me,O=BigCo", Match::Yes),
        ("dn:CN=*,O=BigCo", Match::Yes),
        ("dn:CN=me", Match::No),
        ("dn:CN=BigCo", Match::No),
        ("issuer-dn:CN=BigCo", Match::Yes),
        ("issuer-dn:CN=me*", Match::No),
    ] {
        assert_eq!(rule(text).matches(&caller()), Match::NotYet, "{text}");
        assert_eq!(rule(text).matches(&caller().with_certificate(None)), Match::No, "{text}");
        assert_eq!(rule(text).matches(&caller().with_certificate(Some(&shown))), matches, "{text}");
    }
}
