//! The files of certificates or shared keys, and what was last read from them. HUP reads them again, and replaces
//! either all of it or nothing. Later handshakes use the new contents.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use rustls::{
    CertificateError,
    pki_types::{CertificateDer, UnixTime},
};
use tokio::sync::Notify;

#[cfg(feature = "psk")]
use super::psk::SharedKeys;
use super::{
    Acceptor, Certificate, Failure, TlsError, config,
    expiry::{self, Part, Term},
    files::{Certificates, File},
};
use human::chain;

/// Which files are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Absolute, because the agent may have another working directory at HUP.
    Certificates { directory: PathBuf, verify_peer: bool },
    #[cfg(feature = "psk")]
    SharedKeys(PathBuf),
}

/// What was read from the files.
#[derive(Debug)]
struct Loaded {
    acceptor: Acceptor,
    /// Verifies clients' certificates, if the agent asks for them.
    verifier: Option<config::Verifier>,
    terms: Vec<Term>,
    /// The CA, if there is a list of revoked certificates for it.
    revokes: Option<Vec<CertificateDer<'static>>>,
}

/// A place, and what was last read from it.
#[derive(Debug)]
pub(crate) struct Source {
    place: Place,
    loaded: RwLock<Loaded>,
    /// Notified after the files were read again.
    renewed: Notify,
}

impl Source {
    /// Reads the files for the first time.
    pub(super) fn open(place: Place) -> Result<Arc<Self>, TlsError> {
        let loaded = place.load(None)?;
        expiry::say(&loaded.terms);
        Ok(Arc::new(Self { place, loaded: RwLock::new(loaded), renewed: Notify::new() }))
    }

    /// The acceptor for the next handshake.
    pub(super) fn acceptor(&self) -> Acceptor {
        self.loaded().acceptor.clone()
    }

    /// Why the files as last read refuse a client that was verified before. A certificate that has merely expired since
    /// is no reason: the log reports it, and only new connections are refused.
    pub(super) fn refuses(&self, certificate: &Certificate) -> Option<Failure> {
        let verifier = self.loaded().verifier.clone()?;
        let (owner, others) = certificate.chain.split_first()?;
        let error = verifier.verify_client_cert(owner, others, UnixTime::now()).err()?;
        match error {
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
                | CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. },
            ) => None,
            error => Some(error.into()),
        }
    }

    /// Reads the files again at HUP. Invalid files change nothing. Returns whether the contents are new, so that open
    /// connections must be judged again.
    pub(crate) fn reload(&self) -> bool {
        let revokes = self.loaded().revokes.clone();
        match self.place.load(revokes.as_deref()) {
            Ok(loaded) => {
                let what = self.place.words();
                let others = match loaded.verifier {
                    Some(_) => "connections of clients that they refuse are closed",
                    None => "open connections go on",
                };
                tracing::info!("{what} read again; {others}");
                expiry::say(&loaded.terms);
                *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                self.renewed.notify_one();
                true
            }
            Err(error) => {
                let (what, error) = (self.place.words(), chain(&error));
                tracing::error!("{what} stay as they were read before: {error}");
                false
            }
        }
    }

    /// Logs certificates and lists that will expire soon or have expired. Never returns.
    pub(crate) async fn watch(self: Arc<Self>) {
        // The present files were reported when they were read.
        let mut pause = expiry::pause(&self.loaded().terms);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = expiry::say(&self.loaded().terms),
                () = self.renewed.notified() => pause = expiry::pause(&self.loaded().terms),
            }
        }
    }
}

impl Source {
    fn loaded(&self) -> RwLockReadGuard<'_, Loaded> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// `revoked` is the CA that had a list of revoked certificates here before. A missing list is an error then:
    /// without it revoked certificates would be accepted again, and it may only be missing for a moment while it is
    /// renewed.
    fn load(&self, revoked: Option<&[CertificateDer<'_>]>) -> Result<Loaded, TlsError> {
        match self {
            Self::Certificates { directory, verify_peer } => {
                let read = Certificates::read(directory)?;
                if read.revoked.is_empty() && revoked == Some(&*read.ca) {
                    return Err(TlsError::ListGone { path: read.path(File::Revoked) });
                }
                let revokes = (!read.revoked.is_empty()).then(|| read.ca.clone());
                let own = Term::of_certificates(read.path(File::Own), Part::Own, &read.chain);
                let ca = Term::of_certificates(read.path(File::Ca), Part::Ca, &read.ca);
                let lists = Term::of_lists(read.path(File::Revoked), &read.revoked);
                let lists = lists.filter(|_| *verify_peer);
                let terms = [own, ca, lists].into_iter().flatten().collect();
                let (config, verifier) = config::server(read, *verify_peer)?;
                let acceptor = Acceptor::Certificates(config);
                Ok(Loaded { acceptor, verifier, terms, revokes })
            }
            #[cfg(feature = "psk")]
            Self::SharedKeys(path) => {
                let acceptor = Acceptor::SharedKeys(SharedKeys::read(path)?);
                Ok(Loaded { acceptor, verifier: None, terms: Vec::new(), revokes: None })
            }
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Certificates { directory, .. } => {
                format!("the certificates in {}", directory.display())
            }
            #[cfg(feature = "psk")]
            Self::SharedKeys(path) => format!("the keys in {}", path.display()),
        }
    }
}
