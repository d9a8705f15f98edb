//! What can go wrong while an image is built: one type, each message with its hint.

use std::{io, path::PathBuf, process::ExitStatus};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of ours could not be read or written.
    #[error("cannot {verb} {path}", path = path.display())]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    /// A program is not on this machine.
    #[error("cannot run {program}: {source}; install it: apt-get install {package}")]
    Missing { program: String, package: String, source: io::Error },
    /// A program ran and failed.
    #[error("{command} ended with {status}:\n{output}")]
    Failed { command: String, status: ExitStatus, output: String },
    /// The machine is not one that the recipes are for.
    #[error("the images are built from Debian's packages for amd64, and this machine is {found}")]
    NotDebian { found: String },
    /// apt has no sources of this release.
    #[error(
        "apt names no Debian source of this release; if its lists are empty: apt-get update (as root)"
    )]
    NoSources,
    /// apt knows no cloud kernel.
    #[error(
        "apt knows no package like linux-image-*-cloud-amd64-unsigned; if its lists are empty: \
         apt-get update (as root)"
    )]
    NoKernel,
    /// The kernel's package lacks something that the recipe needs.
    #[error("{package} has no {what}; this release of Debian cuts its kernel packages differently")]
    KernelWithout { package: String, what: String },
}

impl Error {
    /// For `map_err`: an I/O error on one of our files.
    pub(crate) fn file(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { verb, path, source }
    }
}
