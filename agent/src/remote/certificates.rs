//! Whether links use TLS, and the certificates for it. HUP reads the files again, and links that are made later use the
//! new contents.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use human::chain;
use nbd_client::{
    connect::Security,
    tls::{Config, Options, TlsError},
};
use rustls::crypto::aws_lc_rs;

/// Whether connections to the remote server use TLS.
#[derive(Debug)]
pub(crate) enum Tls {
    /// Plain text.
    Off,
    /// TLS if the server supports it.
    On(Arc<Certificates>),
    /// TLS is required.
    Require(Arc<Certificates>),
}

impl Tls {
    /// The certificates that HUP reads again, if there are any.
    pub(crate) const fn certificates(&self) -> Option<&Arc<Certificates>> {
        match self {
            Self::Off => None,
            Self::On(certificates) | Self::Require(certificates) => Some(certificates),
        }
    }

    /// What the next handshake needs, as last read. A reload during the handshake does not change it.
    pub(super) fn now(&self) -> Now {
        match self {
            Self::Off => Now::Off,
            Self::On(certificates) => Now::On(certificates.config()),
            Self::Require(certificates) => Now::Require(certificates.config()),
        }
    }
}

/// Whether one connection uses TLS, and what its handshake needs.
#[derive(Debug)]
pub(super) enum Now {
    Off,
    On(Config),
    Require(Config),
}

impl Now {
    pub(super) const fn security(&self) -> Security<'_> {
        match self {
            Self::Off => Security::Plain,
            Self::On(config) => Security::Opportunistic(config),
            Self::Require(config) => Security::Required(config),
        }
    }
}

/// The files of certificates, and what was last read from them.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// The directory is absolute, because the agent may have another working directory at HUP.
    options: Options,
    config: RwLock<Config>,
}

impl Certificates {
    /// Reads the files for the first time. The directory is chosen now, also for later reads.
    pub(crate) fn read(options: Options) -> Result<Arc<Self>, TlsError> {
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let options = Options { certificates: options.directory().map(absolute), ..options };
        let config = RwLock::new(load(&options)?);
        Ok(Arc::new(Self { options, config }))
    }

    /// Reads the files again at HUP. Invalid files change nothing. Links that exist continue.
    pub(crate) fn reload(&self) {
        // Without a directory no file was read.
        let Some(directory) = self.options.certificates.as_deref().map(Path::display) else {
            return;
        };
        match load(&self.options) {
            Ok(config) => {
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
                tracing::info!(
                    "plugin nbd: the certificates in {directory} read again; open connections go on"
                );
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(
                    "plugin nbd: the certificates in {directory} stay as they were read before: {error}"
                );
            }
        }
    }

    fn config(&self) -> Config {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn load(options: &Options) -> Result<Config, TlsError> {
    Config::load(options, &Arc::new(aws_lc_rs::default_provider()))
}
