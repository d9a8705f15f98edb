//! The names in a client's certificate: distinguished names from DER, as RFC 4514 writes them and nbdkit prints them.
//!
//! The certificate was verified before, and is only parsed here. A name that cannot be parsed is treated as absent.

use std::fmt::{self, Write};

use rustls::pki_types::CertificateDer;

use super::der::{
    BMP, Der, EXPLICIT_VERSION, IA5, INTEGER, OBJECT_ID, PRINTABLE, SEQUENCE, SET, T61, UNIVERSAL,
    UTF8,
};

/// The owner of a verified client certificate, for access rules and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// The owner's distinguished name, such as `CN=client,O=Example,C=US`. Always printable.
    pub dn: String,
    /// The distinguished name of the certificate's issuer.
    pub issuer_dn: String,
    /// The chain that the client sent, the owner's certificate first. It is verified again when lists of revoked
    /// certificates are read again.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Maximum size in bytes of a chain that is kept while a client is connected.
const LONGEST_CHAIN: usize = 16 << 10;

impl Certificate {
    /// The certificate of a client that has sent this chain. If the chain is too long to be kept, only the owner's
    /// certificate is, and the client is refused when it is verified again.
    pub(super) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let owner = chain.first()?;
        let fits = chain.iter().map(|one| one.len()).sum::<usize>() <= LONGEST_CHAIN;
        let kept = if fits { chain } else { std::slice::from_ref(owner) };
        let chain = kept.iter().map(|one| one.clone().into_owned()).collect();
        Some(Self { chain, ..Self::read(owner)? })
    }

    /// Parses the names in a certificate (RFC 5280, section 4.1).
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let mut outer = Der::of(certificate);
        let mut whole = Der::of(outer.expect(SEQUENCE)?);
        let mut fields = Der::of(whole.expect(SEQUENCE)?);
        if fields.is(EXPLICIT_VERSION) {
            fields.next()?;
        }
        fields.expect(INTEGER)?; // The serial number.
        fields.expect(SEQUENCE)?; // The signature algorithm.
        let issuer = fields.expect(SEQUENCE)?;
        fields.expect(SEQUENCE)?; // The validity period.
        let subject = fields.expect(SEQUENCE)?;
        Some(Self { dn: name(subject)?, issuer_dn: name(issuer)?, chain: Vec::new() })
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} issued by {:?}", self.dn, self.issuer_dn)
    }
}

/// Formats an `RDNSequence`, the last part first (RFC 4514, section 2.1).
fn name(sequence: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    let mut sets = Der::of(sequence);
    while !sets.is_empty() {
        let mut attributes = Der::of(sets.expect(SET)?);
        let mut part = String::new();
        while !attributes.is_empty() {
            let mut pair = Der::of(attributes.expect(SEQUENCE)?);
            let id = pair.expect(OBJECT_ID)?;
            let (tag, value, all) = pair.next()?;
            if !part.is_empty() {
                part.push('+');
            }
            put_attribute(&mut part, id, tag, value, all)?;
        }
        parts.push(part);
    }
    parts.reverse();
    Some(parts.join(","))
}

fn put_attribute(out: &mut String, id: &[u8], tag: u8, value: &[u8], all: &[u8]) -> Option<()> {
    let known = keyword(id);
    match known {
        Some(keyword) => out.push_str(keyword),
        None => put_dotted(out, id)?,
    }
    out.push('=');
    if let Some(text) = text(tag, value).filter(|_| known.is_some()) {
        put_escaped(out, &text);
    } else {
        out.push('#');
        all.iter().try_for_each(|byte| write!(out, "{byte:02x}")).ok()?;
    }
    Some(())
}

/// The keyword of an attribute: those of RFC 4514, section 3, and GnuTLS's words for other common ones.
fn keyword(id: &[u8]) -> Option<&'static str> {
    const X520: [u8; 2] = [0x55, 0x04];
    const UCL: [u8; 9] = [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01];
    const EMAIL: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];
    if id == EMAIL {
        return Some("EMAIL");
    }
    let (last, arc) = id.split_last()?;
    Some(match (arc, last) {
        (arc, 3) if arc == X520 => "CN",
        (arc, 4) if arc == X520 => "surName",
        (arc, 5) if arc == X520 => "serialNumber",
        (arc, 6) if arc == X520 => "C",
        (arc, 7) if arc == X520 => "L",
        (arc, 8) if arc == X520 => "ST",
        (arc, 9) if arc == X520 => "STREET",
        (arc, 10) if arc == X520 => "O",
        (arc, 11) if arc == X520 => "OU",
        (arc, 12) if arc == X520 => "title",
        (arc, 1) if arc == UCL => "UID",
        (arc, 25) if arc == UCL => "DC",
        _ => return None,
    })
}

fn put_dotted(out: &mut String, id: &[u8]) -> Option<()> {
    let mut arc: u64 = 0;
    let mut first = true;
    for &byte in id {
        arc = arc.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if std::mem::take(&mut first) {
            let top = (arc / 40).min(2);
            write!(out, "{top}.{}", arc - top * 40).ok()?;
        } else {
            write!(out, ".{arc}").ok()?;
        }
        arc = 0;
    }
    Some(())
}

fn text(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8 | PRINTABLE | IA5 => str::from_utf8(value).ok().map(str::to_owned),
        // In practice it is Latin 1.
        T61 => Some(value.iter().copied().map(char::from).collect()),
        BMP => {
            let (units, []) = value.as_chunks::<2>() else { return None };
            let units = units.iter().map(|unit| u16::from_be_bytes(*unit));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        UNIVERSAL => {
            let (units, []) = value.as_chunks::<4>() else { return None };
            units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit))).collect()
        }
        _ => None,
    }
}

/// Escapes as RFC 4514, section 2.4 demands, and control characters too, because names are printed.
fn put_escaped(out: &mut String, text: &str) {
    let last = text.chars().count().saturating_sub(1);
    for (index, c) in text.chars().enumerate() {
        let edge = (c == ' ' && (index == 0 || index == last)) || (c == '#' && index == 0);
        if c.is_control() {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                write!(out, "\\{byte:02x}").expect("a String takes all");
            }
        } else {
            if edge || "\"+,;<>\\".contains(c) {
                out.push('\\');
            }
            out.push(c);
        }
    }
}

#[cfg(test)]
mod tests;
