//! The configuration of rustls: one for all connections.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::files::{Certificates, File, TlsError};

/// Verifies clients' certificates.
pub(super) type Verifier = Arc<dyn ClientCertVerifier>;

/// Everything that a handshake needs, and the verifier of clients' certificates if they are asked
/// for.
pub(super) fn server(
    mut certificates: Certificates,
    verify_peer: bool,
) -> Result<(Arc<ServerConfig>, Option<Verifier>), TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verify_peer.then(|| verifier(&mut certificates, &provider)).transpose()?;
    let key = certificates.path(File::Key);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .with_client_cert_verifier(
            verifier.clone().unwrap_or_else(WebPkiClientVerifier::no_client_auth),
        )
        .with_single_cert(certificates.chain, certificates.key)
        .map_err(|source| match source {
            rustls::Error::General(_) => TlsError::KeyKind { path: key },
            source => TlsError::Key { path: key, source },
        })?;
    // No session resumption. It would let in a certificate that was revoked since, and a disk's
    // client connects once and stays.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), verifier))
}

/// Accepts certificates that the CA has signed and no list revokes. A client without a certificate
/// is refused.
fn verifier(
    certificates: &mut Certificates,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Verifier, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in std::mem::take(&mut certificates.ca) {
        roots.add(certificate).map_err(|source| TlsError::Useless {
            option: "--tls-certificates",
            path: certificates.path(File::Ca),
            source: source.into(),
        })?;
    }
    let lists = std::mem::take(&mut certificates.revoked);
    let part = if lists.is_empty() { File::Ca } else { File::Revoked };
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .with_crls(lists)
        // As GnuTLS: a certificate that is on no list is not revoked, but an outdated list proves
        // nothing.
        .allow_unknown_revocation_status()
        .enforce_revocation_expiration()
        .build()
        .map_err(|source| TlsError::Useless {
            option: "--tls-certificates",
            path: certificates.path(part),
            source: source.into(),
        })
}
