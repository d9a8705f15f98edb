//! Where certificates or shared keys come from, and what was read there last. They are read again at HUP, all
//! or nothing; handshakes that begin after that use what is new.

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

/// The files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Absolute: the agent may be elsewhere by the time of a HUP.
    Certificates { directory: PathBuf, verify_peer: bool },
    #[cfg(feature = "psk")]
    SharedKeys(PathBuf),
}

/// What is read from them.
#[derive(Debug)]
struct Loaded {
    acceptor: Acceptor,
    /// Judges clients' certificates, where they are wanted.
    verifier: Option<config::Verifier>,
    terms: Vec<Term>,
    /// The CA that has a list of revoked certificates here.
    revokes: Option<Vec<CertificateDer<'static>>>,
}

/// A place, and what was read there last.
#[derive(Debug)]
pub struct Source {
    place: Place,
    loaded: RwLock<Loaded>,
    /// It was read again.
    renewed: Notify,
}

impl Source {
    /// Reads it for the first time.
    pub(super) fn open(place: Place) -> Result<Arc<Self>, TlsError> {
        let loaded = place.load(None)?;
        expiry::say(&loaded.terms);
        Ok(Arc::new(Self { place, loaded: RwLock::new(loaded), renewed: Notify::new() }))
    }

    /// For the next handshake.
    pub(super) fn acceptor(&self) -> Acceptor {
        self.loaded().acceptor.clone()
    }

    /// Why a client that was verified before is refused by what was read last. What has only become too old
    /// meanwhile is no reason: it is said in the log, and counts for those who come.
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

    /// At HUP. Files that have become wrong change nothing. True: they are new, and connections are to be judged
    /// again.
    pub fn reload(&self) -> bool {
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

    /// Says, as time goes by, what is about to expire and what has. Never ends.
    pub async fn watch(self: Arc<Self>) {
        // What is there now was said when it was read.
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
    /// `revoked`: the CA that had a list of revoked certificates here before. Without it they would be let in again,
    /// and it may only be missing for a moment, while it is renewed.
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
