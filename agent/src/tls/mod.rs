//! TLS on the server's side: what was asked for, the certificates, and rustls's configuration.
//!
//! `cli` makes a `Wanted`, `plan` turns it into a `Policy`, and `session` applies it to clients.
//! File names are those of nbdkit-tls(1). Nothing here touches a socket.

mod config;
mod der;
mod expiry;
mod files;
mod name;
#[cfg(feature = "psk")]
mod psk;
mod source;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) use rustls::{IoState, ServerConfig, ServerConnection};

#[cfg(feature = "psk")]
pub(crate) use self::psk::{SharedKeys, user};
use self::source::Place;
pub(crate) use self::{
    files::{ROOTS_PLACE, TlsError},
    name::Certificate,
    source::Source,
};

/// The value of `--tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Off,
    On,
    Require,
}

/// The command line's settings for TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `--tls`, if it was given.
    pub mode: Option<Mode>,
    /// `--tls-certificates`.
    pub certificates: Option<PathBuf>,
    /// `--tls-verify-peer`.
    pub verify_peer: bool,
    /// Also accept clients without TLS if peers are verified and `--tls` is not given, as nbdkit
    /// does.
    pub plain_too: bool,
    /// `--tls-psk`.
    #[cfg(feature = "psk")]
    pub shared_keys: Option<PathBuf>,
}

/// How every session uses TLS.
#[derive(Debug, Clone, Default)]
pub(crate) enum Policy {
    /// STARTTLS is refused.
    #[default]
    Off,
    /// The client chooses.
    On(Arc<Source>),
    /// Required: the client must send STARTTLS first.
    Require(Arc<Source>),
}

/// Everything that a handshake needs. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Acceptor {
    /// Uses rustls.
    Certificates(Arc<ServerConfig>),
    /// Uses OpenSSL.
    #[cfg(feature = "psk")]
    SharedKeys(SharedKeys),
}

impl Wanted {
    /// Whether TLS is required, either by `--tls` or because peers are verified.
    pub(crate) fn requires(&self) -> bool {
        match self.mode {
            Some(mode) => mode == Mode::Require,
            None => self.verify_peer && !self.plain_too,
        }
    }

    /// Reads the files and decides. Without `--tls`, TLS is on if there are certificates or keys.
    /// If TLS was asked for and is not possible, this is an error, and never plain text.
    pub(crate) fn prepare(&self) -> Result<Policy, TlsError> {
        if self.mode == Some(Mode::Off) {
            return Ok(Policy::Off);
        }
        let Some(place) = self.place()? else { return Ok(Policy::Off) };
        let source = Source::open(place)?;
        if self.requires() {
            return Ok(Policy::Require(source));
        }
        if self.verify_peer {
            tracing::warn!(
                "--tls-verify-peer: clients without TLS are let in and not verified; --tls=require \
                 refuses them"
            );
        }
        Ok(Policy::On(source))
    }

    /// The directory of certificates or the file of shared keys, if it was named on the command
    /// line and is used.
    pub(crate) fn named(&self, policy: &Policy) -> (Option<&Path>, Option<&Path>) {
        match policy.acceptor() {
            None => (None, None),
            Some(Acceptor::Certificates(_)) => (self.certificates.as_deref(), None),
            #[cfg(feature = "psk")]
            Some(Acceptor::SharedKeys(_)) => (None, self.shared_keys.as_deref()),
        }
    }

    /// Chooses as nbdkit does: shared keys before certificates, and a named directory before the
    /// default directories.
    fn place(&self) -> Result<Option<Place>, TlsError> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|source| TlsError::Read { path: path.into(), source })
        };
        #[cfg(feature = "psk")]
        if let Some(path) = &self.shared_keys {
            return Ok(Some(Place::SharedKeys(absolute(path)?)));
        }
        let found = files::places().into_iter().find(|place| files::are_in(place));
        let directory = match (&self.certificates, found) {
            (Some(named), _) => named.clone(),
            (None, Some(found)) => found,
            (None, None) => {
                let option = match self.mode {
                    Some(Mode::Require) => "--tls=require",
                    Some(_) => "--tls=on",
                    None if self.verify_peer => "--tls-verify-peer",
                    None => return Ok(None),
                };
                return Err(TlsError::nowhere(option));
            }
        };
        let directory = absolute(&directory)?;
        Ok(Some(Place::Certificates { directory, verify_peer: self.verify_peer }))
    }
}

impl Policy {
    /// The listener's URI in the form that clients need: `nbds`, `nbds+unix` or `nbds+vsock` if TLS
    /// is required.
    pub(crate) fn uri(&self, plain: String) -> String {
        match (self, plain.strip_prefix("nbd")) {
            (Self::Require(_), Some(rest)) => format!("nbds{rest}"),
            _ => plain,
        }
    }

    /// nbdkit's number for the mode: 1 for on, 2 for required.
    pub(crate) const fn level(&self) -> Option<u8> {
        match self {
            Self::Off => None,
            Self::On(_) => Some(1),
            Self::Require(_) => Some(2),
        }
    }

    /// Whether STARTTLS is possible.
    pub(crate) const fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// The files that HUP reads again, if STARTTLS is possible.
    pub(crate) const fn source(&self) -> Option<&Arc<Source>> {
        match self {
            Self::Off => None,
            Self::On(source) | Self::Require(source) => Some(source),
        }
    }

    /// Why the files as last read refuse a client that has shown this certificate.
    pub(crate) fn refuses(&self, certificate: &Certificate) -> Option<Failure> {
        self.source()?.refuses(certificate)
    }

    /// The acceptor for the next STARTTLS, if it is possible.
    pub(crate) fn acceptor(&self) -> Option<Acceptor> {
        self.source().map(|source| source.acceptor())
    }
}

/// The peer's certificate after the handshake. `None` unless `--tls-verify-peer` is given.
pub(crate) fn certificate(session: &ServerConnection) -> Option<Certificate> {
    Certificate::of_chain(session.peer_certificates()?)
}

/// Why TLS with a client failed, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(String);

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
            ) => "ca-crl.pem is past its next update, so no certificate is taken; renew it \
                 and send HUP"
                .to_owned(),
            Error::InvalidCertificate(CertificateError::Other(other))
                if other.0.downcast_ref() == Some(&webpki::Error::UnsupportedCertVersion) =>
            {
                "the client's certificate is of X.509 version 1, which says not what it is for; \
                 version 3 is needed"
                    .to_owned()
            }
            Error::InvalidCertificate(other) => format!("the client's certificate: {other}"),
            Error::AlertReceived(alert) => format!("the client ended it: {}", name_of(alert)),
            other => other.to_string(),
        })
    }
}

/// An alert's name in the TLS specification, such as `unknown_ca`.
fn name_of(alert: rustls::AlertDescription) -> String {
    let Some(name) = alert.as_str() else { return format!("alert {}", u8::from(alert)) };
    let mut out = String::new();
    let mut before = None;
    for c in name.chars() {
        let begins = c.is_ascii_uppercase() && before.is_some_and(|c: char| c.is_ascii_lowercase());
        out.extend(begins.then_some('_'));
        out.push(c.to_ascii_lowercase());
        before = Some(c);
    }
    out
}

impl std::error::Error for Failure {}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
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
    fn an_alert_has_its_name_in_the_specification() {
        assert_eq!(name_of(rustls::AlertDescription::UnknownCA), "unknown_ca");
        assert_eq!(name_of(rustls::AlertDescription::BadCertificate), "bad_certificate");
        assert_eq!(name_of(rustls::AlertDescription::Unknown(7)), "alert 7");
    }

    #[test]
    fn a_certificate_of_version_1_is_named_as_such() {
        use rustls::{
            RootCertStore,
            pki_types::{CertificateDer, UnixTime, pem::PemObject},
            server::WebPkiClientVerifier,
        };
        // 'openssl x509 -req' without extensions.
        let version_1 = CertificateDer::from_pem_slice(include_bytes!("version-1.pem")).unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = ca.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = verifier.build().unwrap();
        let error = verifier.verify_client_cert(&version_1, &[], UnixTime::now()).unwrap_err();
        let failure = Failure::from(error).to_string();
        assert!(failure.contains("of X.509 version 1,"), "{failure}");
    }

    #[test]
    fn off_reads_no_certificates() {
        let wanted = Wanted {
            mode: Some(Mode::Off),
            certificates: Some("/nowhere".into()),
            ..Wanted::default()
        };
        assert!(matches!(wanted.prepare(), Ok(Policy::Off)));
    }
}
