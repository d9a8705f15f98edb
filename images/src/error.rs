//! The errors of building an image. Each message has its hint.

use std::{io, path::PathBuf, process::ExitStatus};

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {verb} {path}", path = path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot run {program}: {source}; install it: apt-get install {package}")]
    Missing {
        /// The program.
        program: String,
        /// The Debian package that has it.
        package: String,
        /// Why it was not started.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{command} ended with {status}:\n{output}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
    /// This machine does not run Debian on amd64.
    #[error("the images are built from Debian's packages for amd64, and this machine is {found}")]
    NotDebian {
        /// The system and the architecture.
        found: String,
    },
    /// apt has no package sources of this release.
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
    /// The kernel's package lacks a file that the recipe needs.
    #[error(
        "{package} has no {what}; this release of Debian splits its kernel packages differently"
    )]
    KernelWithout {
        /// The package.
        package: String,
        /// What it lacks.
        what: String,
    },
}

impl Error {
    /// For `map_err`: the error of `verb` on `path`.
    pub(crate) fn file(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { verb, path, source }
    }
}
