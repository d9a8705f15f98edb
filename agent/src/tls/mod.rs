//! TLS of the server's side: what was asked for, the certificates, and what rustls is told.
//!
//! `cli` makes a `Wanted`, `plan` turns it into a `Policy`, `session` takes clients by it. Names
//! are nbdkit-tls(1)'s. No socket is touched here.

mod config;
mod files;
mod name;

use std::{fmt, path::PathBuf, sync::Arc};

use rustls::ServerConfig;
pub use rustls::{IoState, ServerConnection};

pub use self::{
    files::{Certificates, TlsError},
    name::Certificate,
};

/// `--tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Off,
    On,
    Require,
}

/// What the command line says of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `--tls`, if it was given.
    pub mode: Option<Mode>,
    /// `--tls-certificates`.
    pub certificates: Option<PathBuf>,
    /// `--tls-verify-peer`.
    pub verify_peer: bool,
}

/// What every session does about TLS.
#[derive(Debug, Clone, Default)]
pub enum Policy {
    /// STARTTLS is refused.
    #[default]
    Off,
    /// The client chooses.
    On(Acceptor),
    /// Nothing goes on without it.
    Require(Acceptor),
}

/// All that a handshake needs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Acceptor(Arc<ServerConfig>);

impl Wanted {
    /// Reads the certificates and decides. Without `--tls` there is TLS where there are
    /// certificates; what was asked for and cannot be had is an error, never plain text.
    pub fn prepare(&self) -> Result<Policy, TlsError> {
        let certificates = match (self.mode, &self.certificates) {
            (Some(Mode::Off), _) => None,
            (_, Some(directory)) => Some(Certificates::read(directory)?),
            (None, None) => match files::places().iter().find(|place| files::are_in(place)) {
                Some(place) => Some(Certificates::read(place)?),
                None if self.verify_peer => return Err(TlsError::nowhere("--tls-verify-peer")),
                None => None,
            },
            (Some(mode), None) => match files::places().iter().find(|place| files::are_in(place)) {
                Some(place) => Some(Certificates::read(place)?),
                None if mode == Mode::Require => return Err(TlsError::nowhere("--tls=require")),
                None => return Err(TlsError::nowhere("--tls=on")),
            },
        };
        let Some(certificates) = certificates else { return Ok(Policy::Off) };
        let acceptor = Acceptor(config::server(certificates, self.verify_peer)?);
        Ok(if self.mode == Some(Mode::Require) {
            Policy::Require(acceptor)
        } else {
            Policy::On(acceptor)
        })
    }
}

impl Policy {
    /// A listener's URI as clients have to say it: `nbds`, `nbds+unix` or `nbds+vsock` where there
    /// is nothing without TLS.
    pub fn uri(&self, plain: String) -> String {
        match (self, plain.strip_prefix("nbd")) {
            (Self::Require(_), Some(rest)) => format!("nbds{rest}"),
            _ => plain,
        }
    }

    /// For STARTTLS, where it is possible.
    pub const fn acceptor(&self) -> Option<&Acceptor> {
        match self {
            Self::Off => None,
            Self::On(acceptor) | Self::Require(acceptor) => Some(acceptor),
        }
    }
}

impl Acceptor {
    /// A session before its first byte.
    pub fn begin(&self) -> Result<ServerConnection, Failure> {
        ServerConnection::new(Arc::clone(&self.0)).map_err(Failure::from)
    }
}

/// Who the other end is, once the handshake is through; `None` unless `--tls-verify-peer`.
pub fn certificate(session: &ServerConnection) -> Option<Certificate> {
    session.peer_certificates()?.first().and_then(Certificate::read)
}

/// Why a client's TLS came to nothing; for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(String);

impl From<rustls::Error> for Failure {
    fn from(error: rustls::Error) -> Self {
        use rustls::{CertificateError, Error};
        Self(match error {
            Error::NoCertificatesPresented => {
                "the client has no certificate (--tls-verify-peer)".to_owned()
            }
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "the client's certificate is not signed by the CA in ca-cert.pem".to_owned()
            }
            Error::InvalidCertificate(CertificateError::Revoked) => {
                "the client's certificate is revoked by ca-crl.pem".to_owned()
            }
            Error::InvalidCertificate(
                CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. },
            ) => "ca-crl.pem is past its next update, so no certificate is taken; renew it"
                .to_owned(),
            Error::InvalidCertificate(other) => format!("the client's certificate: {other}"),
            Error::AlertReceived(alert) => format!("the client ended it: {alert:?}"),
            other => other.to_string(),
        })
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_a_uri_stays_as_it_is() {
        for uri in ["nbd://localhost:10809", "nbd+unix:///?socket=/nbd", "nbd+vsock://2:10809/a"] {
            assert_eq!(Policy::Off.uri(uri.to_owned()), uri);
        }
    }

    #[test]
    fn off_reads_no_certificates() {
        let wanted = Wanted {
            mode: Some(Mode::Off),
            certificates: Some("/nowhere".into()),
            verify_peer: false,
        };
        assert!(matches!(wanted.prepare(), Ok(Policy::Off)));
    }
}
