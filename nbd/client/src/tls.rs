//! A client's TLS with X.509 certificates, in the directories and under the file names that libnbd
//! uses. The caller chooses the cryptography (`CryptoProvider`); the feature `ring` includes one.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    net::IpAddr,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nbd::{Uri, uri::Place};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{Error as PemError, PemObject},
    },
    server::ParsedCertificate,
};
use thiserror::Error as ThisError;

use crate::{
    socket::Socket,
    stream::WAITING,
    timeout::Timeout,
    wait::{Event, Wait},
};

/// The directories of libnbd if the URI names none. The first two are below $HOME.
const OF_HOME: [&str; 2] = [".pki/libnbd", ".config/pki/libnbd"];
const OF_ALL: &str = "/etc/pki/libnbd";

const CA: &str = "ca-cert.pem";
const CERTIFICATE: &str = "client-cert.pem";
const KEY: &str = "client-key.pem";
const REVOKED: &str = "ca-crl.pem";

/// Why TLS cannot be used.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum TlsError {
    /// No directory was given, and none of the default ones has a CA certificate.
    #[error(
        "TLS needs {CA} to know the server by: say where, with tls-certificates=DIR, or \
         put it below ~/.pki/libnbd, ~/.config/pki/libnbd or {OF_ALL}"
    )]
    NoDirectory,
    /// A file cannot be read, or is not PEM.
    #[error("cannot use {} (it is to be PEM)", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PemError,
    },
    /// A file is a pipe or a directory, for example.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// A file contains no certificate.
    #[error("{} has no certificate in it", .0.display())]
    Empty(PathBuf),
    /// A certificate without its key, or a key without its certificate.
    #[error("{} needs the other of {CERTIFICATE} and {KEY} beside it", .0.display())]
    Half(PathBuf),
    /// There is a revocation list.
    #[error("{} is a list of revoked certificates, which this program does not support: remove it to connect without the check", .0.display())]
    Revoked(PathBuf),
    /// The name to check is neither a DNS name nor an address.
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
    /// rustls refuses the configuration.
    #[error("cannot begin TLS")]
    Begin(#[source] Error),
    /// The handshake failed: a certificate is not valid, or the connection broke.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
}

/// What a handshake needs, read from its files and checked.
#[derive(Debug, Clone)]
pub struct Config {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// Where the certificates are, and what is checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of `ca-cert.pem` and, for a client that shows a certificate, `client-cert.pem`
    /// and `client-key.pem`. `None`: the first of libnbd's directories that has a `ca-cert.pem`.
    pub certificates: Option<PathBuf>,
    /// The name that the server's certificate must have. `None`: any name. The path of a socket and a
    /// CID are not names, and a CA that signs for only one server needs none.
    pub hostname: Option<String>,
    /// Whether the server's certificate is checked at all. Otherwise anybody between the client and
    /// the server can impersonate the server.
    pub verify: bool,
}

impl Options {
    /// The directory of the certificates: the given one, or the first of libnbd's that has a
    /// `ca-cert.pem` now.
    pub fn directory(&self) -> Option<PathBuf> {
        self.certificates.clone().or_else(directory)
    }

    /// The options of a URI. A TCP host is the name to check if the URI gives no other.
    pub fn of_uri(uri: &Uri) -> Self {
        let said = &uri.tls_options;
        let hostname = said.hostname.as_deref().or(match &uri.place {
            Place::Tcp { host, .. } => Some(host),
            _ => None,
        });
        Self {
            certificates: said.certificates.as_deref().map(|path| OsStr::from_bytes(path).into()),
            hostname: hostname.map(str::to_owned),
            verify: true,
        }
    }
}

/// The cryptography of the crate `ring`.
#[cfg(feature = "ring")]
pub fn ring() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Config {
    /// Reads the certificates.
    ///
    /// # Errors
    /// All of `TlsError` except `Handshake`.
    pub fn load(options: &Options, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let Options { hostname, verify, .. } = options;
        let directory = options.directory();
        let file = |name: &str| directory.as_ref().map(|directory| directory.join(name));
        let there = |name: &str| file(name).filter(|path| path.exists());
        if let Some(revoked) = there(REVOKED) {
            return Err(TlsError::Revoked(revoked));
        }
        let mut roots = RootCertStore::empty();
        if *verify {
            for certificate in certificates(&file(CA).ok_or(TlsError::NoDirectory)?)? {
                roots.add(certificate).map_err(TlsError::Begin)?;
            }
        }
        let name = hostname.as_deref().unwrap_or("localhost");
        let name = name.parse::<IpAddr>().map_or_else(
            |_| ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned())),
            |address| Ok(ServerName::from(address)),
        )?;
        let trust = match (verify, hostname) {
            (false, _) => Trust::Anybody,
            (true, None) => Trust::Signed,
            (true, Some(_)) => Trust::Named,
        };
        let verifier = Arc::new(Verifier { roots, provider: Arc::clone(provider), trust });
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Begin)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match (there(CERTIFICATE), there(KEY)) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(path)) => {
                regular(&path)?;
                let key = PrivateKeyDer::from_pem_file(&path);
                let key = key.map_err(|source| TlsError::Pem { path, source })?;
                let own = certificates(&certificate)?;
                builder.with_client_auth_cert(own, key).map_err(TlsError::Begin)?
            }
            (Some(half), None) | (None, Some(half)) => return Err(TlsError::Half(half)),
        };
        Ok(Self { config: Arc::new(config), name })
    }
}

/// Does the handshake, in the time that is allowed for one answer.
pub(crate) async fn shake_hands(
    socket: &mut Socket,
    config: &Config,
    timeout: Timeout,
    wait: &impl Wait,
) -> Result<ClientConnection, TlsError> {
    let Config { config, name } = config.clone();
    let mut connection = ClientConnection::new(config, name).map_err(TlsError::Begin)?;
    connection.set_buffer_limit(Some(WAITING));
    let until = timeout.deadline();
    while connection.is_handshaking() {
        match connection.complete_io(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => {
                done.map_err(TlsError::Handshake)?;
                continue;
            }
        }
        let event = if connection.wants_write() { Event::Writable } else { Event::Readable };
        let ready = wait.ready(socket.as_fd(), event, until).await.map_err(TlsError::Handshake)?;
        if !ready {
            return Err(TlsError::Handshake(timeout.expired()));
        }
    }
    Ok(connection)
}

fn directory() -> Option<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let all = OF_HOME.iter().map(|path| home.join(path)).chain([OF_ALL.into()]);
    all.into_iter().find(|path| path.is_absolute() && fs::exists(path.join(CA)).unwrap_or(false))
}

/// Fails if the file is there and not regular. Opening a pipe would wait for its other end, and a caller that reads the
/// files again must not be blocked.
fn regular(path: &Path) -> Result<(), TlsError> {
    match fs::metadata(path) {
        Ok(file) if !file.is_file() => Err(TlsError::NotAFile(path.to_owned())),
        _ => Ok(()),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    regular(path)?;
    let wrong = |source| TlsError::Pem { path: path.to_owned(), source };
    let all = CertificateDer::pem_file_iter(path).map_err(wrong)?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if all.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(all) }
}

/// Which certificates of a server are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Any certificate.
    Anybody,
    /// A certificate that the CA has signed.
    Signed,
    /// A certificate that the CA has signed and that has the name.
    Named,
}

/// Verifies a server's certificate.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    trust: Trust,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.trust == Trust::Anybody {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            between,
            now,
            algorithms,
        )?;
        if self.trust == Trust::Named {
            verify_server_name(&certificate, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
