use proptest::{collection::vec, option, prelude::*};
use vsock_cid::Cid;

use super::*;

fn parse(text: &str) -> Result<Uri, UriError> {
    text.parse()
}

fn tcp(host: &str, port: u16) -> Place {
    Place::Tcp { host: host.to_owned(), port }
}

fn vsock(cid: u32, port: u32) -> Place {
    Place::Vsock { cid: Cid::new(cid), port }
}

fn unix(socket: &[u8]) -> Place {
    Place::Unix { socket: socket.to_vec() }
}

#[test]
fn a_uri_parses_to_its_parts() {
    for (text, place, export) in [
        ("nbd://example.com:10810/disk", tcp("example.com", 10810), "disk"),
        ("nbd://example.com/", tcp("example.com", 10809), ""),
        ("nbd://example.com", tcp("example.com", 10809), ""),
        ("nbd://example.com:/x", tcp("example.com", 10809), "x"),
        ("nbd://example.com//disk", tcp("example.com", 10809), "/disk"),
        ("nbd://example.com/a/b", tcp("example.com", 10809), "a/b"),
        ("nbd://example.com/hello%20world", tcp("example.com", 10809), "hello world"),
        ("nbd://example.com/a+b%2Bc", tcp("example.com", 10809), "a+b+c"),
        ("NBD://example.com/%C3%A9", tcp("example.com", 10809), "\u{e9}"),
        ("nbd://[::1]:10811/", tcp("::1", 10811), ""),
        ("nbd://[fe80::1%25eth0]/", tcp("fe80::1%eth0", 10809), ""),
        ("nbd+unix:///disk?socket=sock", unix(b"sock"), "disk"),
        ("nbd+unix://?socket=/tmp/a%3Fb", unix(b"/tmp/a?b"), ""),
        ("nbd+unix:///?socket=%00/abstract", unix(b"\0/abstract"), ""),
        ("nbd+unix:///?socket=/bytes%FF", unix(b"/bytes\xff"), ""),
        ("nbd+vsock://", vsock(2, 10809), ""),
        ("nbd+vsock:///disk", vsock(2, 10809), "disk"),
        ("nbd+vsock://3/", vsock(3, 10809), ""),
        ("nbd+vsock://:10810/", vsock(2, 10810), ""),
        ("nbd+vsock://1:4294967295/x", vsock(1, u32::MAX), "x"),
        ("nbd+vsock://4294967295:0/", vsock(u32::MAX, 0), ""),
    ] {
        let uri = Uri::plain(place, export.to_owned());
        assert_eq!(parse(text), Ok(uri.clone()), "{text}");
        let secure = text.replacen("nbd", "nbds", 1).replacen("NBD", "nbds", 1);
        assert_eq!(parse(&secure), Ok(Uri { tls: true, ..uri }), "{secure}");
    }
}

#[test]
fn a_text_that_is_not_a_uri_is_refused_with_the_reason() {
    let port = |port: &str, maximum| UriError::Port { port: port.to_owned(), maximum };
    for (text, error) in [
        ("", UriError::Scheme(String::new())),
        ("http://x/", UriError::Scheme("http://x/".into())),
        ("nbd:x", UriError::Scheme("nbd:x".into())),
        ("nbd:unix:/tmp/sock", UriError::Scheme("nbd:unix:/tmp/sock".into())),
        ("nbd+tcp://x/", UriError::Scheme("nbd+tcp://x/".into())),
        ("nbd+ssh://x/", UriError::Scheme("nbd+ssh://x/".into())),
        ("nbd:///disk", UriError::NoHost),
        ("nbd://:10809/", UriError::NoHost),
        ("nbd://::1/", UriError::Host("::1".into())),
        ("nbd://[::1/", UriError::Host("[::1".into())),
        ("nbd://[::1]x/", UriError::Host("[::1]x".into())),
        ("nbd://h:65536/", port("65536", 65535)),
        ("nbd://h:+1/", port("+1", 65535)),
        ("nbd://h:nbd/", port("nbd", 65535)),
        ("nbd+vsock://2:4294967296/", port("4294967296", u32::MAX)),
        ("nbd+vsock://4294967296/", UriError::Cid("4294967296".into())),
        ("nbd+vsock://18446744073709551618/", UriError::Cid("18446744073709551618".into())),
        ("nbd+vsock://-1/", UriError::Cid("-1".into())),
        ("nbd+vsock://host/", UriError::Cid("host".into())),
        ("nbd+unix:///disk", UriError::NoSocket),
        ("nbd+unix:///disk?socket=", UriError::NoSocket),
        ("nbd+unix://host/?socket=s", UriError::HostOfUnix("host".into())),
        ("nbd://user@h/", UriError::User("user@h".into())),
        ("nbd://h/?socket=s", UriError::Parameter("socket=s".into())),
        ("nbd://h/?tls-certificates=/x", UriError::Parameter("tls-certificates=/x".into())),
        ("nbds://h/?tls-certificates=", UriError::Parameter("tls-certificates=".into())),
        ("nbds://h/?tls-hostname=a&tls-hostname=b", UriError::Parameter("tls-hostname=b".into())),
        ("nbds://h/?tls-psk-file=/x", UriError::Parameter("tls-psk-file=/x".into())),
        ("nbd://h/?tls-type=x509", UriError::Parameter("tls-type=x509".into())),
        ("nbd+unix:///?socket=a&socket=b", UriError::Parameter("socket=b".into())),
        ("nbd://h/%zz", UriError::Encoding("%zz".into())),
        ("nbd://h/%4", UriError::Encoding("%4".into())),
        ("nbd://h/%ff", UriError::Encoding("%ff".into())),
        ("nbd://h/%00", UriError::Export),
        ("nbd://h/a#b", UriError::Fragment),
    ] {
        assert_eq!(parse(text), Err(error), "{text}");
    }
    assert!(parse(&format!("nbd://h/{}", "n".repeat(4096))).is_ok());
    assert_eq!(parse(&format!("nbd://h/{}", "n".repeat(4097))), Err(UriError::Export));
}

#[test]
fn defaults_are_not_printed() {
    for text in [
        "nbd://example.com/disk",
        "nbds://[::1]:1/",
        "nbd+vsock://2/",
        "nbd+vsock://3:4294967295/a%20b",
        "nbds+vsock://2/a?tls-certificates=/etc/pki%20x&tls-hostname=agent.example",
        "nbds+unix:///?socket=/s&tls-certificates=x",
        "nbd+unix:///x?socket=/run/agent.sock",
        "nbd://[fe80::1%25eth0]/",
    ] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        ("[^\0]{1,20}", any::<u16>()).prop_map(|(host, port)| Place::Tcp { host, port }),
        vec(any::<u8>(), 1..60).prop_map(|socket| Place::Unix { socket }),
        (any::<u32>(), any::<u32>()).prop_map(|(cid, port)| vsock(cid, port)),
    ]
}

proptest! {
    #[test]
    fn a_printed_uri_parses_to_the_same_value(
        place in place(),
        export in "[^\0]{0,40}",
        tls: bool,
        certificates in option::of(vec(any::<u8>(), 1..20)),
        hostname in option::of(".{1,10}"),
    ) {
        let tls_options = TlsOptions { certificates, hostname };
        let tls_options = if tls { tls_options } else { TlsOptions::default() };
        let uri = Uri { tls, place, export, tls_options };
        prop_assert_eq!(parse(&uri.to_string()), Ok(uri));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(nbds?(\\+unix|\\+vsock)?://)?.{0,40}") {
        if let Ok(uri) = parse(&text) {
            prop_assert_eq!(parse(&uri.to_string()), Ok(uri));
        }
    }
}
