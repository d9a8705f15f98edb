//! A rule: the words of nbdkit-ip-filter(1) and of the agent, parsed, printed and matched.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;
use vsock_cid::GuestCid;

use super::{Caller, Shown, glob::Glob, number::Numbers, parse_number};
use crate::peer::{Peer, VsockKind};

/// The peers that a rule names. Keywords have either case, and `all…` means `any…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rule {
    /// `any`: every peer.
    Any,
    /// `anyipv4`, `anyipv6`, `anyunix`, `anyvsock`: every peer of that transport.
    AnyOf(Way),
    /// `192.168.0.0/24`: the bits after the prefix do not matter.
    Ipv4(Ipv4Addr, u8),
    /// `2001:db8::/32`.
    Ipv6(Ipv6Addr, u8),
    /// `uid:1000-1999`, `vsock-cid:3` and the like.
    Number(Field, Numbers),
    /// `security:LABEL`: the whole label that a security module gave the peer.
    Security(String),
    /// `dn:PATTERN`, `issuer-dn:PATTERN`: a name in the client's certificate.
    Dn(Named, Glob),
    /// `vsock-guest`, `vsock-guest:3-9`: a virtual machine of this host, by its CID.
    Guest(Option<Numbers>),
    /// `vsock-local`, `vsock-hypervisor`, `vsock-sibling`: a vsock peer that is no guest of this host.
    Vsock(VsockKind),
}

/// The transport of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Ipv4,
    Ipv6,
    Unix,
    Vsock,
}

/// A number that identifies a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Pid,
    Uid,
    Gid,
    Cid,
    Port,
}

/// A name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Subject,
    Issuer,
}

/// Whether a rule names a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    Yes,
    No,
    /// It depends on the certificate, which the caller has not shown yet.
    NotYet,
}

/// Why a text is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum RuleError {
    #[error("the list has an empty entry; remove the extra comma")]
    Empty,
    #[error(
        "'{0}' is no rule; rules are any, anyipv4, anyipv6, anyunix, anyvsock, addresses and \
         prefixes (10.0.0.0/8), pid:, uid:, gid:, vsock-cid:, vsock-port: with a number or a range \
         (3-9), security:, dn:, issuer-dn:, vsock-guest, vsock-local, vsock-hypervisor, vsock-sibling"
    )]
    Unknown(String),
    #[error("'{0}' needs a number or a range such as 3-9, within {1}")]
    Number(String, &'static str),
    #[error("'{0}' is no network; the prefix is a number up to 32 (IPv4) or 128 (IPv6)")]
    Prefix(String),
    #[error("'{0}' has nothing after the colon")]
    Nothing(String),
}

const KINDS: [(&str, VsockKind); 3] = [
    ("vsock-local", VsockKind::Local),
    ("vsock-hypervisor", VsockKind::Hypervisor),
    ("vsock-sibling", VsockKind::Sibling),
];

const FIELDS: [(&str, Field, &str); 5] = [
    ("pid", Field::Pid, "1 to 2147483647"),
    ("uid", Field::Uid, "0 to 4294967295"),
    ("gid", Field::Gid, "0 to 4294967295"),
    ("vsock-cid", Field::Cid, "0 to 4294967295"),
    ("vsock-port", Field::Port, "0 to 4294967295"),
];

const WAYS: [(&str, Way); 4] =
    [("ipv4", Way::Ipv4), ("ipv6", Way::Ipv6), ("unix", Way::Unix), ("vsock", Way::Vsock)];

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.is_empty() {
            return Err(RuleError::Empty);
        }
        let lower = text.to_ascii_lowercase();
        if let Some(way) = lower.strip_prefix("any").or_else(|| lower.strip_prefix("all")) {
            if way.is_empty() {
                return Ok(Self::Any);
            }
            if let Some((_, way)) = WAYS.iter().find(|(word, _)| *word == way) {
                return Ok(Self::AnyOf(*way));
            }
        }
        if lower == "vsock-guest" {
            return Ok(Self::Guest(None));
        }
        if let Some((_, kind)) = KINDS.iter().find(|(word, _)| *word == lower) {
            return Ok(Self::Vsock(*kind));
        }
        if let Some((word, value)) = text.split_once(':')
            && let Some(rule) = with_value(&word.to_ascii_lowercase(), value, text)
        {
            return rule;
        }
        network(text)
    }
}

/// Parses a word with a colon and its value; `None` if the word is unknown, as in an IPv6 address.
fn with_value(word: &str, value: &str, text: &str) -> Option<Result<Rule, RuleError>> {
    let needed = |rule: fn(&str) -> Rule| {
        let nothing = || RuleError::Nothing(text.to_owned());
        Some((!value.is_empty()).then(|| rule(value)).ok_or_else(nothing))
    };
    match word {
        "security" => return needed(|label| Rule::Security(unescaped(label))),
        "dn" => return needed(|name| Rule::Dn(Named::Subject, Glob::new(name))),
        "issuer-dn" => return needed(|name| Rule::Dn(Named::Issuer, Glob::new(name))),
        "vsock-guest" => {
            let cids = Numbers::parse(value).filter(|cids| cids.first() >= GuestCid::MIN.get());
            let error = || RuleError::Number(text.to_owned(), "3 to 4294967295");
            return Some(cids.map(|cids| Rule::Guest(Some(cids))).ok_or_else(error));
        }
        _ => {}
    }
    let (_, field, bounds) = FIELDS.iter().find(|(known, ..)| *known == word)?;
    let numbers = Numbers::parse(value).filter(|it| *field != Field::Pid || it.first() > 0);
    let error = || RuleError::Number(text.to_owned(), bounds);
    Some(numbers.map(|numbers| Rule::Number(*field, numbers)).ok_or_else(error))
}

/// Parses an address, or an address and a prefix.
fn network(text: &str) -> Result<Rule, RuleError> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| RuleError::Unknown(text.to_owned()))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(most), |prefix| {
        parse_number(prefix).and_then(|it| u8::try_from(it).ok()).filter(|it| *it <= most)
    });
    let prefix = prefix.ok_or_else(|| RuleError::Prefix(text.to_owned()))?;
    Ok(match address {
        IpAddr::V4(address) => Rule::Ipv4(address, prefix),
        // An IPv4-mapped IPv6 address is IPv4, for peers too.
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) if prefix >= 96 => Rule::Ipv4(address, prefix - 96),
            _ => Rule::Ipv6(address, prefix),
        },
    })
}

/// Removes the backslash of `\,` and `\\` in a label.
fn unescaped(label: &str) -> String {
    let mut text = String::new();
    let mut letters = label.chars().peekable();
    while let Some(letter) = letters.next() {
        let escaped = letter == '\\' && matches!(letters.peek(), Some(',' | '\\'));
        text.push(if escaped { letters.next().unwrap_or(letter) } else { letter });
    }
    text
}

impl Rule {
    /// Whether the rule names the caller.
    pub(crate) fn matches(&self, caller: &Caller<'_>) -> Match {
        let yes = match (self, caller.shown) {
            (Self::Dn(..), Shown::NotYet) => return Match::NotYet,
            (Self::Dn(..), Shown::Nothing) => false,
            (Self::Dn(Named::Subject, name), Shown::Certificate(it)) => name.matches(&it.dn),
            (Self::Dn(Named::Issuer, name), Shown::Certificate(it)) => name.matches(&it.issuer_dn),
            _ => self.names(caller),
        };
        if yes { Match::Yes } else { Match::No }
    }

    /// Whether the rule is about certificates. Without TLS such a rule names no peer.
    pub(crate) fn needs_certificate(&self) -> bool {
        matches!(self, Self::Dn(..))
    }

    fn names(&self, caller: &Caller<'_>) -> bool {
        let peer = caller.peer;
        match self {
            Self::Any => true,
            Self::AnyOf(way) => way_of(peer) == Some(*way),
            Self::Ipv4(network, prefix) => match address_of(peer) {
                Some(IpAddr::V4(address)) => {
                    let differ = address.to_bits() ^ network.to_bits();
                    differ.leading_zeros() >= u32::from(*prefix)
                }
                _ => false,
            },
            Self::Ipv6(network, prefix) => match address_of(peer) {
                Some(IpAddr::V6(address)) => {
                    let differ = address.to_bits() ^ network.to_bits();
                    differ.leading_zeros() >= u32::from(*prefix)
                }
                _ => false,
            },
            Self::Number(field, numbers) => {
                field.of(peer).is_some_and(|number| numbers.contains(number))
            }
            Self::Security(label) => caller.label() == Some(label),
            // Decided by `matches`.
            Self::Dn(..) => false,
            Self::Guest(cids) => {
                peer.is_guest()
                    && cids.is_none_or(|cids| {
                        Field::Cid.of(peer).is_some_and(|cid| cids.contains(cid))
                    })
            }
            Self::Vsock(kind) => peer.vsock_kind() == Some(*kind),
        }
    }
}

/// The address of a TCP peer. An IPv4-mapped IPv6 address is IPv4.
fn address_of(peer: &Peer) -> Option<IpAddr> {
    match peer {
        Peer::Tcp(address) => Some(address.ip().to_canonical()),
        _ => None,
    }
}

fn way_of(peer: &Peer) -> Option<Way> {
    match peer {
        Peer::Tcp(_) => Some(match address_of(peer)? {
            IpAddr::V4(_) => Way::Ipv4,
            IpAddr::V6(_) => Way::Ipv6,
        }),
        Peer::Unix { .. } => Some(Way::Unix),
        Peer::Vsock { .. } | Peer::Vm { .. } => Some(Way::Vsock),
        Peer::Pipe => None,
    }
}

impl Field {
    fn of(self, peer: &Peer) -> Option<u32> {
        match (self, peer) {
            (Self::Pid, Peer::Unix { pid, .. }) => u32::try_from(*pid).ok(),
            (Self::Uid, Peer::Unix { uid, .. }) => Some(*uid),
            (Self::Gid, Peer::Unix { gid, .. }) => Some(*gid),
            (Self::Cid, Peer::Vsock { cid, .. }) => Some(cid.get()),
            (Self::Port, Peer::Vsock { port, .. }) => Some(*port),
            (Self::Port, Peer::Vm { port, .. }) => *port,
            _ => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::AnyOf(way) => {
                let word = WAYS.iter().find(|(_, known)| known == way).map_or("", |(word, _)| word);
                write!(f, "any{word}")
            }
            Self::Ipv4(address, 32) => address.fmt(f),
            Self::Ipv4(address, prefix) => write!(f, "{address}/{prefix}"),
            Self::Ipv6(address, 128) => address.fmt(f),
            Self::Ipv6(address, prefix) => write!(f, "{address}/{prefix}"),
            Self::Number(field, numbers) => {
                let known = FIELDS.iter().find(|(_, known, _)| known == field);
                write!(f, "{}:{numbers}", known.map_or("", |(word, ..)| word))
            }
            Self::Security(label) => {
                write!(f, "security:{}", label.replace('\\', r"\\").replace(',', r"\,"))
            }
            Self::Dn(Named::Subject, name) => write!(f, "dn:{name}"),
            Self::Dn(Named::Issuer, name) => write!(f, "issuer-dn:{name}"),
            Self::Guest(None) => f.write_str("vsock-guest"),
            Self::Guest(Some(cids)) => write!(f, "vsock-guest:{cids}"),
            Self::Vsock(kind) => {
                let known = KINDS.iter().find(|(_, known)| known == kind);
                f.write_str(known.map_or("vsock-guest", |(word, _)| word))
            }
        }
    }
}

#[cfg(test)]
mod tests;
