//! Where certificates or shared keys come from, and what was read there last. They are read again at HUP, all
//! or nothing; handshakes that begin after that use what is new.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::Notify;

#[cfg(feature = "psk")]
use super::psk::SharedKeys;
use super::{
    Acceptor, TlsError, config,
    expiry::{self, Part, Term},
    files::{Certificates, File},
};
use crate::causes::chain;

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
    terms: Vec<Term>,
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
        let loaded = place.load()?;
        expiry::say(&loaded.terms);
        Ok(Arc::new(Self { place, loaded: RwLock::new(loaded), renewed: Notify::new() }))
    }

    /// For the next handshake.
    pub(super) fn acceptor(&self) -> Acceptor {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// At HUP. Files that have become wrong change nothing, nor do new ones for handshakes that are
    /// through.
    pub fn reload(&self) {
        match self.place.load() {
            Ok(loaded) => {
                let what = self.place.words();
                tracing::info!("{what} read again; open connections go on");
                expiry::say(&loaded.terms);
                *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                self.renewed.notify_one();
            }
            Err(error) => {
                let (what, error) = (self.place.words(), chain(&error));
                tracing::error!("{what} stay as they were read before: {error}");
            }
        }
    }

    /// Says, as time goes by, what is about to expire and what has. Never ends.
    pub async fn watch(self: Arc<Self>) {
        // What is there now was said when it was read.
        let mut pause = self.ask(expiry::pause);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = self.ask(expiry::say),
                () = self.renewed.notified() => pause = self.ask(expiry::pause),
            }
        }
    }
}

impl Source {
    fn ask<T>(&self, about: impl FnOnce(&[Term]) -> T) -> T {
        about(&self.loaded.read().unwrap_or_else(PoisonError::into_inner).terms)
    }
}

impl Place {
    fn load(&self) -> Result<Loaded, TlsError> {
        match self {
            Self::Certificates { directory, verify_peer } => {
                let read = Certificates::read(directory)?;
                let own = Term::of_certificates(read.path(File::Own), Part::Own, &read.chain);
                let ca = Term::of_certificates(read.path(File::Ca), Part::Ca, &read.ca);
                let lists = Term::of_lists(read.path(File::Revoked), &read.revoked);
                let lists = lists.filter(|_| *verify_peer);
                let terms = [own, ca, lists].into_iter().flatten().collect();
                let acceptor = Acceptor::Certificates(config::server(read, *verify_peer)?);
                Ok(Loaded { acceptor, terms })
            }
            #[cfg(feature = "psk")]
            Self::SharedKeys(path) => {
                let acceptor = Acceptor::SharedKeys(SharedKeys::read(path)?);
                Ok(Loaded { acceptor, terms: Vec::new() })
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
