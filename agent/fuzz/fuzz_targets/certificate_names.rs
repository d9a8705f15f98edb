//! A client's certificate whose names are any bytes. In the agent rustls has verified it before, so its CA has
//! signed the names; they are parsed by hand all the same (agent/src/tls/name.rs).

#![no_main]

#[path = "../../src/tls/der.rs"]
#[allow(dead_code, reason = "the dates of certificates are not read here")]
mod der;
#[path = "../../src/tls/name.rs"]
#[allow(dead_code, reason = "the agent uses all of it")]
mod name;

use libfuzzer_sys::fuzz_target;
use rustls::pki_types::CertificateDer;

const SEQUENCE: u8 = 0x30;

/// A value of DER: its tag, its length in two bytes and its contents.
fn value(tag: u8, contents: &[u8]) -> Vec<u8> {
    let len = u16::try_from(contents.len()).expect("inputs are short").to_be_bytes();
    [&[tag, 0x82, len[0], len[1]], contents].concat()
}

/// A certificate with these names, as far as they are looked for.
fn certificate(issuer: &[u8], subject: &[u8]) -> Vec<u8> {
    let fields = [
        value(0x02, &[1]),
        value(SEQUENCE, &[]),
        value(SEQUENCE, issuer),
        value(SEQUENCE, &[]),
        value(SEQUENCE, subject),
    ];
    value(SEQUENCE, &value(SEQUENCE, &fields.concat()))
}

fuzz_target!(|input: &[u8]| {
    // Any bytes as a certificate, and as the names in one.
    for der in [input.to_vec(), certificate(&[], input), certificate(input, &[])] {
        let Some(read) = name::Certificate::of_chain(&[CertificateDer::from(der)]) else { continue };
        for name in [read.dn, read.issuer_dn] {
            assert!(!name.chars().any(char::is_control), "{name:?} can be printed");
        }
    }
});
