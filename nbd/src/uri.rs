//! NBD URIs as in libnbd and in `doc/uri.md` of the NBD project: parsed and printed.
//!
//! ```text
//! nbd://HOST[:PORT]/NAME       nbd+unix:///NAME?socket=PATH       nbd+vsock://[CID][:PORT]/NAME
//! nbds://...                   nbds+unix://...                    nbds+vsock://...       (TLS)
//! ```
//! With TLS, `tls-certificates=DIR` is the folder of the certificates, and `tls-hostname=NAME` the name that
//! the server's certificate must have.
//!
//! Nothing is resolved or opened here. Unknown parameters are refused by name: an ignored one could be the one
//! that asks for encryption.
//!
//! ```
//! use nbd::{Uri, uri::Place};
//!
//! let uri: Uri = "nbd+unix:///disk?socket=/run/nbd.sock".parse()?;
//! assert_eq!(uri.export, "disk");
//! assert_eq!(uri.place, Place::Unix { socket: b"/run/nbd.sock".to_vec() });
//! assert_eq!(uri.to_string(), "nbd+unix:///disk?socket=/run/nbd.sock");
//! # Ok::<_, nbd::uri::UriError>(())
//! ```

use std::{fmt, str::FromStr};

use thiserror::Error;
use vsock_cid::Cid;

use crate::wire::{DEFAULT_PORT, MAX_STRING};

/// The address of a server, and the name of one of its exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// Whether TLS is required (`nbds`).
    pub tls: bool,
    /// The address to connect to.
    pub place: Place,
    /// The export's name; empty for the default one.
    pub export: String,
    /// The parameters about TLS; empty without TLS.
    pub tls_options: TlsOptions,
}

/// The parameters of a URI about TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The folder of the certificates, as the bytes of a path.
    pub certificates: Option<Vec<u8>>,
    /// The name that the server's certificate must have, if it differs from the host.
    pub hostname: Option<String>,
}

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// TCP.
    Tcp {
        /// A host name or an address. An IPv6 address has no brackets here.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// The bytes of its path. A path that begins with NUL is an abstract name.
        socket: Vec<u8>,
    },
    /// AF_VSOCK.
    Vsock {
        /// The context id of the machine.
        cid: Cid,
        /// The port, which has 32 bits in AF_VSOCK.
        port: u32,
    },
}

/// Why a text is not an NBD URI.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UriError {
    /// The scheme is not `nbd[s][+unix|+vsock]:`.
    #[error("{0:?} does not begin with nbd://, nbds://, nbd+unix:// or nbd+vsock://")]
    Scheme(String),
    /// A percent sign without two hexadecimal digits after it, or bytes that are not UTF-8.
    #[error("{0:?} has an invalid percent-encoding, or is not UTF-8")]
    Encoding(String),
    /// An export name with a NUL or with more than 4096 bytes.
    #[error("the export name has more than 4096 bytes, or a NUL")]
    Export,
    /// A TCP URI without a host.
    #[error("no host: nbd://HOST[:PORT]/NAME")]
    NoHost,
    /// A host with brackets that do not match, or with text around them.
    #[error("{0:?} is not a host: an IPv6 address goes in brackets, as in nbd://[::1]:10809/")]
    Host(String),
    /// A port that is not a number, or is too large.
    #[error("port {port:?} is not a number from 0 to {maximum}")]
    Port {
        /// As written.
        port: String,
        /// 65535, or 2^32-1 for vsock.
        maximum: u32,
    },
    /// A CID that is not a number of 32 bits.
    #[error("CID {0:?} is not a number from 0 to 4294967295")]
    Cid(String),
    /// A Unix URI without the parameter `socket=`.
    #[error("no socket: nbd+unix:///NAME?socket=PATH")]
    NoSocket,
    /// A Unix URI with a host.
    #[error(
        "{0:?} is a host, which a URI of a Unix socket does not have: nbd+unix:///NAME?socket=PATH"
    )]
    HostOfUnix(String),
    /// A user name. It belongs to TLS with shared keys, which is not supported.
    #[error("{0:?} has a user name, which is not supported")]
    User(String),
    /// A parameter that is unknown, does not belong to the scheme, or is given twice.
    #[error("parameter {0:?} is unknown, or given twice")]
    Parameter(String),
    /// A fragment (`#...`).
    #[error("a fragment is not allowed: write %23 for a # in a name")]
    Fragment,
}

impl Uri {
    /// A URI without TLS.
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
            // There is no scheme "nbd+tcp".
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
        "" => Cid::HOST,
        digits => {
            let number = number(digits, u32::MAX).ok().flatten();
            number.map(Cid::new).ok_or_else(|| UriError::Cid(digits.into()))?
        }
    };
    let port = number(port, u32::MAX)?.unwrap_or_else(|| DEFAULT_PORT.into());
    Ok(Place::Vsock { cid, port })
}

/// Parses digits, without sign and space. `None` if there are none.
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

/// Decodes percent-encoding. A plus sign stays a plus sign, as this is not form data.
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

/// Prints bytes with percent-encoding, so that `decode` gives them back and they cannot be taken for
/// another part of the URI. The byte in the second field is not encoded.
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
