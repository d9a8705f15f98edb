//! NBD URIs, as libnbd and `doc/uri.md` of the NBD project have them: parse and print.
//!
//! ```text
//! nbd://HOST[:PORT]/NAME       nbd+unix:///NAME?socket=PATH       nbd+vsock://[CID][:PORT]/NAME
//! nbds://...                   nbds+unix://...                    nbds+vsock://...       (TLS)
//! ```
//! With TLS, `tls-certificates=DIR` says where the certificates are, and `tls-hostname=NAME` which
//! name the server's must have.
//!
//! Nothing is resolved or opened here. Parameters that this project has no use for are refused by
//! name: one that is ignored could be the one that asked for encryption.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::wire::{DEFAULT_PORT, MAX_STRING};

/// The CID of a guest's own host, where a vsock URI without one goes.
pub const HOST_CID: u32 = 2;

/// Where a server is, and which export of it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// With TLS from the start of the negotiation (`nbds`).
    pub tls: bool,
    /// Where to connect.
    pub place: Place,
    /// The export's name; empty for the default one.
    pub export: String,
    /// What is said of TLS; nothing without it.
    pub tls_options: TlsOptions,
}

/// What a URI says of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The directory of the certificates, in bytes.
    pub certificates: Option<Vec<u8>>,
    /// The name that the server's certificate must have, if it is not the host's.
    pub hostname: Option<String>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// TCP.
    Tcp {
        /// A name or an address; an IPv6 address without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path, in bytes; one that begins with NUL is an abstract name.
        socket: Vec<u8>,
    },
    /// AF_VSOCK.
    Vsock {
        /// Whose.
        cid: u32,
        /// The port; it has 32 bits here.
        port: u32,
    },
}

/// Why a text is no NBD URI.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UriError {
    /// Something else than `nbd[s][+unix|+vsock]:`.
    #[error("{0:?} does not begin with nbd://, nbds://, nbd+unix:// or nbd+vsock://")]
    Scheme(String),
    /// A percent sign without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("{0:?} has a percent-encoding that is none, or that is not UTF-8")]
    Encoding(String),
    /// A NUL or more than 4096 bytes.
    #[error("the export name is over 4096 bytes or has a NUL in it")]
    Export,
    /// TCP needs a host.
    #[error("no host: nbd://HOST[:PORT]/NAME")]
    NoHost,
    /// Brackets that do not match, or something around them.
    #[error("{0:?} is no host: an IPv6 address goes in brackets, as in nbd://[::1]:10809/")]
    Host(String),
    /// A port that is no number or too large.
    #[error("port {port:?} is not a number from 0 to {maximum}")]
    Port {
        /// As written.
        port: String,
        /// 65535, or 2^32-1 for vsock.
        maximum: u32,
    },
    /// A CID that is no number of 32 bits.
    #[error("CID {0:?} is not a number from 0 to 4294967295")]
    Cid(String),
    /// A Unix URI says where its socket is in the parameter only.
    #[error("no socket: nbd+unix:///NAME?socket=PATH")]
    NoSocket,
    /// A Unix URI has no host.
    #[error("{0:?} where a Unix socket has no host: nbd+unix:///NAME?socket=PATH")]
    HostOfUnix(String),
    /// A user name is for a kind of TLS that is not here.
    #[error("{0:?} has a user name, which this program has no use for")]
    User(String),
    /// A parameter that is not known, or has no place in this scheme, or is said twice.
    #[error("parameter {0:?} is not known here, or is said twice")]
    Parameter(String),
    /// `#...`
    #[error("a fragment has no meaning here: write %23 for a # in a name")]
    Fragment,
}

impl Uri {
    /// An export without TLS.
    pub const fn plain(place: Place, export: String) -> Self {
        let tls_options = TlsOptions { certificates: None, hostname: None };
        Self { tls: false, place, export, tls_options }
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let scheme = || UriError::Scheme(text.to_owned());
        let (before, rest) = text.split_once(':').ok_or_else(scheme)?;
        let before = before.to_ascii_lowercase();
        let (base, transport) = before.split_once('+').unwrap_or((&before, "tcp"));
        let tls = match base {
            "nbd" => false,
            "nbds" => true,
            _ => return Err(scheme()),
        };
        let rest = rest.strip_prefix("//").ok_or_else(scheme)?;
        if rest.contains('#') {
            return Err(UriError::Fragment);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(UriError::User(authority.to_owned()));
        }
        let export = text_of(path)?;
        if export.len() > MAX_STRING || export.contains('\0') {
            return Err(UriError::Export);
        }
        let place = match transport {
            // "nbd+tcp" is nobody's scheme.
            "tcp" if !before.contains('+') => tcp(authority)?,
            "vsock" => vsock(authority)?,
            "unix" if !authority.is_empty() => {
                return Err(UriError::HostOfUnix(authority.to_owned()));
            }
            "unix" => Place::Unix { socket: Vec::new() },
            _ => return Err(scheme()),
        };
        let mut uri = Self { tls, ..Self::plain(place, export) };
        for parameter in query.split(['&', ';']).filter(|parameter| !parameter.is_empty()) {
            let Self { place, tls_options: TlsOptions { certificates, hostname }, .. } = &mut uri;
            match (parameter.split_once('='), place) {
                (Some(("socket", path)), Place::Unix { socket }) if socket.is_empty() => {
                    *socket = decode(path)?;
                }
                (Some(("tls-certificates", path)), _)
                    if tls && certificates.is_none() && !path.is_empty() =>
                {
                    *certificates = Some(decode(path)?);
                }
                (Some(("tls-hostname", name)), _)
                    if tls && hostname.is_none() && !name.is_empty() =>
                {
                    *hostname = Some(text_of(name)?);
                }
                _ => return Err(UriError::Parameter(parameter.to_owned())),
            }
        }
        match &uri.place {
            Place::Unix { socket } if socket.is_empty() => Err(UriError::NoSocket),
            _ => Ok(uri),
        }
    }
}

fn tcp(authority: &str) -> Result<Place, UriError> {
    let wrong = || UriError::Host(authority.to_owned());
    let (host, port) = if let Some(inside) = authority.strip_prefix('[') {
        let (host, after) = inside.split_once(']').ok_or_else(wrong)?;
        match after.strip_prefix(':') {
            Some(port) => (host, port),
            None if after.is_empty() => (host, ""),
            None => return Err(wrong()),
        }
    } else {
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        if port.contains(':') || host.contains(['[', ']']) {
            return Err(wrong());
        }
        (host, port)
    };
    let host = text_of(host)?;
    if host.is_empty() {
        return Err(UriError::NoHost);
    }
    if host.contains('\0') {
        return Err(wrong());
    }
    let port = number(port, u16::MAX.into())?.map_or(Ok(DEFAULT_PORT), u16::try_from);
    Ok(Place::Tcp { host, port: port.unwrap_or(DEFAULT_PORT) })
}

fn vsock(authority: &str) -> Result<Place, UriError> {
    let (cid, port) = authority.split_once(':').unwrap_or((authority, ""));
    let cid = match cid {
        "" => HOST_CID,
        digits => {
            number(digits, u32::MAX).ok().flatten().ok_or_else(|| UriError::Cid(digits.into()))?
        }
    };
    let port = number(port, u32::MAX)?.unwrap_or_else(|| DEFAULT_PORT.into());
    Ok(Place::Vsock { cid, port })
}

/// Digits only: no sign, no space. `None` for nothing at all.
fn number(digits: &str, maximum: u32) -> Result<Option<u32>, UriError> {
    if digits.is_empty() {
        return Ok(None);
    }
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(number) if plain && number <= maximum => Ok(Some(number)),
        _ => Err(UriError::Port { port: digits.to_owned(), maximum }),
    }
}

fn text_of(encoded: &str) -> Result<String, UriError> {
    String::from_utf8(decode(encoded)?).map_err(|_| UriError::Encoding(encoded.to_owned()))
}

/// Takes percent-encoding off. A plus sign is a plus sign: these are not forms.
fn decode(encoded: &str) -> Result<Vec<u8>, UriError> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        match digit().zip(digit()).map(|(high, low)| u8::try_from(high * 16 + low)) {
            Some(Ok(byte)) => bytes.push(byte),
            _ => return Err(UriError::Encoding(encoded.to_owned())),
        }
    }
    Ok(bytes)
}

/// Prints bytes so that `decode` gives them back and no part of a URI is mistaken for another. One
/// more byte may stand as it is.
struct Encoded<'a>(&'a [u8], u8);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                write!(f, "{}", char::from(byte))
            }
            _ if byte == self.1 => write!(f, "{}", char::from(byte)),
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        let export = Encoded(self.export.as_bytes(), b'/');
        match &self.place {
            Place::Tcp { host, port } => {
                if host.contains(':') {
                    write!(f, "{scheme}://[{}]", Encoded(host.as_bytes(), b':'))?;
                } else {
                    write!(f, "{scheme}://{}", Encoded(host.as_bytes(), b'-'))?;
                }
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{export}")?;
            }
            Place::Unix { socket } => {
                write!(f, "{scheme}+unix:///{export}?socket={}", Encoded(socket, b'/'))?;
            }
            Place::Vsock { cid, port } => {
                write!(f, "{scheme}+vsock://{cid}")?;
                if *port != u32::from(DEFAULT_PORT) {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{export}")?;
            }
        }
        let TlsOptions { certificates, hostname } = &self.tls_options;
        let mut mark = if matches!(self.place, Place::Unix { .. }) { '&' } else { '?' };
        for (key, value) in [
            ("tls-certificates", certificates.as_deref()),
            ("tls-hostname", hostname.as_deref().map(str::as_bytes)),
        ] {
            if let Some(value) = value {
                write!(f, "{mark}{key}={}", Encoded(value, b'/'))?;
                mark = '&';
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
