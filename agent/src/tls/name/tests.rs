//! Names compared with the contents of a certificate, and with bytes that are not one.

use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, DnValue, DnValue::Utf8String, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;

use super::{Certificate, name};

fn utf8(text: &str) -> DnValue {
    Utf8String(text.to_owned())
}

/// A certificate with these parts of the name, in this order.
fn certificate(parts: Vec<(DnType, DnValue)>) -> CertificateDer<'static> {
    let named = |parts: Vec<(DnType, DnValue)>| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind, value);
        }
        params
    };
    let ca =
        named(vec![(DnType::OrganizationName, utf8("Example")), (DnType::CommonName, utf8("CA"))]);
    let issuer = Issuer::new(ca, KeyPair::generate().unwrap());
    let key = KeyPair::generate().unwrap();
    named(parts).signed_by(&key, &issuer).unwrap().der().clone()
}

fn dn(parts: Vec<(DnType, DnValue)>) -> String {
    let read = Certificate::read(&certificate(parts)).unwrap();
    assert_eq!(read.issuer_dn, "CN=CA,O=Example");
    read.dn
}

#[test]
fn the_last_part_comes_first_and_known_ones_have_their_keywords() {
    let parts = vec![
        (DnType::CountryName, DnValue::PrintableString("DE".try_into().unwrap())),
        (DnType::StateOrProvinceName, utf8("Bayern")),
        (DnType::LocalityName, utf8("M\u{fc}nchen")),
        (DnType::OrganizationName, utf8("Example")),
        (DnType::OrganizationalUnitName, utf8("Disks")),
        (
            DnType::from_oid(&[0, 9, 2342, 19_200_300, 100, 1, 25]),
            DnValue::Ia5String("example".try_into().unwrap()),
        ),
        (DnType::CommonName, utf8("guest 7")),
    ];
    let expected = "CN=guest 7,DC=example,OU=Disks,O=Example,L=M\u{fc}nchen,ST=Bayern,C=DE";
    assert_eq!(dn(parts), expected);
}

#[test]
fn special_characters_in_a_name_are_escaped() {
    for (value, escaped) in [
        ("a,b+c\"d\\e<f>g;h", r#"a\,b\+c\"d\\e\<f\>g\;h"#),
        (" a ", r"\ a\ "),
        ("a b", "a b"),
        ("#a#", r"\#a#"),
        (" ", r"\ "),
        ("", ""),
        ("a\nb\u{1b}[31m\0", r"a\0ab\1b[31m\00"),
    ] {
        assert_eq!(dn(vec![(DnType::CommonName, utf8(value))]), format!("CN={escaped}"));
    }
}

#[test]
fn an_unknown_part_is_shown_in_numbers() {
    let unknown = DnType::from_oid(&[2, 5, 4, 65]);
    assert_eq!(dn(vec![(unknown, utf8("ab"))]), "2.5.4.65=#0c026162");
    let private = DnType::from_oid(&[1, 3, 6, 1, 4, 1, 99_999, 1]);
    assert_eq!(dn(vec![(private, utf8("a"))]), "1.3.6.1.4.1.99999.1=#0c0161");
}

#[test]
fn every_kind_of_text_is_read() {
    let bmp = DnValue::BmpString("\u{fc}b".try_into().unwrap());
    let universal = DnValue::UniversalString("\u{1f600}".try_into().unwrap());
    let teletex = DnValue::TeletexString("tele".try_into().unwrap());
    for (value, text) in [(bmp, "\u{fc}b"), (universal, "\u{1f600}"), (teletex, "tele")] {
        assert_eq!(dn(vec![(DnType::CommonName, value)]), format!("CN={text}"));
    }
}

#[test]
fn a_certificate_without_an_owner_has_an_empty_name() {
    assert_eq!(dn(vec![]), "");
}

#[test]
fn a_part_of_several_attributes_is_joined() {
    // SET { SEQUENCE { CN, "a" }, SEQUENCE { UID, "b" } }
    let cn = [&[0x30, 8, 6, 3, 0x55, 4, 3, 0x0c, 1][..], b"a"].concat();
    let uid =
        [&[0x30, 15, 6, 10, 9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1, 0x0c, 1], &b"b"[..]]
            .concat();
    let len = u8::try_from(cn.len() + uid.len()).unwrap();
    assert_eq!(name(&[&[0x31, len], &*cn, &uid].concat()).unwrap(), "CN=a+UID=b");
}

proptest! {
    #[test]
    fn bytes_that_are_no_certificate_have_no_name(bytes in any::<Vec<u8>>()) {
        let read = Certificate::read(&CertificateDer::from(bytes));
        prop_assert!(read.is_none());
    }

    #[test]
    fn a_broken_certificate_never_panics(at in 0_usize..400, byte in any::<u8>(), cut in 0_usize..500) {
        let mut bytes = certificate(vec![(DnType::CommonName, utf8("a"))]).to_vec();
        if let Some(broken) = bytes.get_mut(at) {
            *broken = byte;
        }
        bytes.truncate(cut);
        drop(Certificate::read(&CertificateDer::from(bytes)));
    }
}
