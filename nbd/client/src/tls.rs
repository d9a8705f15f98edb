//! TLS of a client with certificates, in the directories and under the names that libnbd has for
//! them.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    net::IpAddr,
    os::unix::ffi::OsStrExt,
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
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{Error as PemError, PemObject},
    },
    server::ParsedCertificate,
};
use thiserror::Error as ThisError;

use crate::{socket::Socket, stream::WAITING};

/// Where libnbd looks when the URI does not say it; the first two are below $HOME.
const OF_HOME: [&str; 2] = [".pki/libnbd", ".config/pki/libnbd"];
const OF_ALL: &str = "/etc/pki/libnbd";

const CA: &str = "ca-cert.pem";
const CERTIFICATE: &str = "client-cert.pem";
const KEY: &str = "client-key.pem";
const REVOKED: &str = "ca-crl.pem";

/// Why there is no TLS.
#[derive(Debug, ThisError)]
pub enum TlsError {
    #[error(
        "TLS needs {CA} to know the server by: say where, with ?tls-certificates=DIR in the URI, or \
         put it below ~/.pki/libnbd, ~/.config/pki/libnbd or {OF_ALL}"
    )]
    NoDirectory,
    #[error("cannot use {} (it is to be PEM)", path.display())]
    Pem { path: PathBuf, source: PemError },
    #[error("{} has no certificate in it", .0.display())]
    Empty(PathBuf),
    #[error("{} needs the other of {CERTIFICATE} and {KEY} beside it", .0.display())]
    Half(PathBuf),
    #[error("{} is a list of what is revoked, which this program does not read: remove it if it may go unread", .0.display())]
    Revoked(PathBuf),
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
    #[error("cannot begin TLS")]
    Begin(#[source] Error),
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
}

/// What is needed for a handshake, read and judged.
#[derive(Debug)]
pub struct Ready {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// Reads the certificates before anything is connected.
pub fn prepare(uri: &Uri) -> Result<Ready, TlsError> {
    let directory = match &uri.tls_options.certificates {
        Some(path) => PathBuf::from(OsStr::from_bytes(path)),
        None => directory().ok_or(TlsError::NoDirectory)?,
    };
    let file = |name: &str| directory.join(name);
    if file(REVOKED).exists() {
        return Err(TlsError::Revoked(file(REVOKED)));
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&file(CA))? {
        roots.add(certificate).map_err(TlsError::Begin)?;
    }
    // A name that is said is checked; a TCP host is one; a socket's path or a CID is none.
    let name = uri.tls_options.hostname.as_deref().or(match &uri.place {
        Place::Tcp { host, .. } => Some(host),
        _ => None,
    });
    let checked = name.is_some();
    let name = name.unwrap_or("localhost");
    let name = name.parse::<IpAddr>().map_or_else(
        |_| ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned())),
        |address| Ok(ServerName::from(address)),
    )?;
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Verifier { roots, provider: Arc::clone(&provider), checked });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Begin)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match (file(CERTIFICATE).exists(), file(KEY).exists()) {
        (false, false) => builder.with_no_client_auth(),
        (true, true) => {
            let path = file(KEY);
            let key = PrivateKeyDer::from_pem_file(&path);
            let key = key.map_err(|source| TlsError::Pem { path, source })?;
            let own = certificates(&file(CERTIFICATE))?;
            builder.with_client_auth_cert(own, key).map_err(TlsError::Begin)?
        }
        (true, false) => return Err(TlsError::Half(file(CERTIFICATE))),
        (false, true) => return Err(TlsError::Half(file(KEY))),
    };
    Ok(Ready { config: Arc::new(config), name })
}

/// Shakes hands, in the time that there is for one answer.
pub(crate) fn shake_hands(socket: &mut Socket, ready: Ready) -> Result<ClientConnection, TlsError> {
    let Ready { config, name } = ready;
    let mut connection = ClientConnection::new(config, name).map_err(TlsError::Begin)?;
    connection.set_buffer_limit(Some(WAITING));
    socket.begin_to_wait();
    while connection.is_handshaking() {
        connection.complete_io(socket).map_err(TlsError::Handshake)?;
    }
    Ok(connection)
}

fn directory() -> Option<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let all = OF_HOME.iter().map(|path| home.join(path)).chain([OF_ALL.into()]);
    all.into_iter().find(|path| path.is_absolute() && fs::exists(path.join(CA)).unwrap_or(false))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::Pem { path: path.to_owned(), source };
    let all = CertificateDer::pem_file_iter(path).map_err(wrong)?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if all.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(all) }
}

/// Takes a server whose certificate the CA has signed, and which has the name if there is one to
/// check: sockets and CIDs have none, and a CA that signs for this server alone needs none.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    checked: bool,
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
        let certificate = ParsedCertificate::try_from(end)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            between,
            now,
            algorithms,
        )?;
        if self.checked {
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
