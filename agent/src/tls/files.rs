//! The files of nbdkit-tls(1): where to look for them, and what they contain.

use std::{
    env, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use thiserror::Error;

const CA: &str = "ca-cert.pem";
const CERTIFICATE: &str = "server-cert.pem";
const KEY: &str = "server-key.pem";
const REVOKED: &str = "ca-crl.pem";

/// Where nbdkit looks for certificates if it runs as root and no directory is given.
pub(crate) const ROOTS_PLACE: &str = "/etc/pki/nbdkit";
/// Where it looks as another user, in this order, below `$HOME`.
const HOME_PLACES: [&str; 2] = [".pki/nbdkit", ".config/pki/nbdkit"];

/// The contents of a directory of certificates.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(super) directory: PathBuf,
    /// The CAs that may sign clients' certificates.
    pub(super) ca: Vec<CertificateDer<'static>>,
    /// The server's certificate and the intermediate ones up to its CA.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// Lists of revoked certificates.
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
}

/// Why TLS is not possible although it was asked for.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    #[error("{option} needs certificates, and there are none in {}", list(.places))]
    Nowhere { option: &'static str, places: Vec<PathBuf> },
    #[error("--tls-certificates: cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} was there before and is gone: the certificates that it revokes would be taken again; put \
         an empty list there, or start the agent anew", .path.display()
    )]
    ListGone { path: PathBuf },
    #[error("{} is not a regular file, and it has to be read again at HUP", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is longer than {LONGEST} bytes", .path.display())]
    TooLong { path: PathBuf },
    #[error("--tls-certificates: there is no {what} in {}", .path.display())]
    Empty { what: &'static str, path: PathBuf },
    #[error("--tls-certificates: {} is not PEM: {why}", .path.display())]
    NotPem { path: PathBuf, why: String },
    #[error("--tls-certificates: {} does not fit {CERTIFICATE}", .path.display())]
    Key { path: PathBuf, source: rustls::Error },
    #[error(
        "--tls-certificates: {} is no key for TLS: it has to be RSA of 2048 to 8192 bits, ECDSA on \
         P-256, P-384 or P-521, or Ed25519", .path.display()
    )]
    KeyKind { path: PathBuf },
    #[cfg(feature = "psk")]
    #[error("--tls-psk: cannot read {}", .path.display())]
    ReadKeys { path: PathBuf, source: io::Error },
    #[cfg(feature = "psk")]
    #[error("--tls-psk: line {line} of {} is no key: {why}", .path.display())]
    KeyLine { path: PathBuf, line: usize, why: &'static str },
    #[cfg(feature = "psk")]
    #[error("--tls-psk: there is no key in {}", .path.display())]
    NoKeys { path: PathBuf },
    #[error("{option}: {} is of no use", .path.display())]
    Useless {
        option: &'static str,
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TlsError {
    pub(super) fn nowhere(option: &'static str) -> Self {
        Self::Nowhere { option, places: places() }
    }

    /// What to do about it, if that is known and not in the message already.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Nowhere { .. } => {
                Some("say where they are with --tls-certificates DIRECTORY".into())
            }
            #[cfg(feature = "psk")]
            Self::KeyLine { .. } | Self::NoKeys { .. } => {
                Some("make it with psktool(1): psktool -u USER -p FILE".into())
            }
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!("the directory must hold {CA}, {CERTIFICATE} and {KEY}"))
            }
            _ => None,
        }
    }
}

fn list(places: &[PathBuf]) -> String {
    let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
    if places.is_empty() { "$HOME, which is not set".into() } else { places.join(" or ") }
}

/// The directories to search if none is given.
pub(super) fn places() -> Vec<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return vec![ROOTS_PLACE.into()];
    }
    match env::var_os("HOME") {
        Some(home) => HOME_PLACES.iter().map(|place| Path::new(&home).join(place)).collect(),
        None => Vec::new(),
    }
}

/// Whether nbdkit would take this for a directory of certificates: all three files exist and can be
/// read.
pub(super) fn are_in(place: &Path) -> bool {
    [CA, CERTIFICATE, KEY].iter().all(|file| fs::File::open(place.join(file)).is_ok())
}

impl Certificates {
    pub(super) fn read(directory: &Path) -> Result<Self, TlsError> {
        let path = |file| directory.join(file);
        let certificates = |path: PathBuf| {
            let bytes = read(&path)?;
            let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
            match found {
                Ok(found) if found.is_empty() => Err(TlsError::Empty { what: "certificate", path }),
                found => found.map_err(|why| not_pem(path, &why)),
            }
        };
        let ca = certificates(path(CA))?;
        let chain = certificates(path(CERTIFICATE))?;
        let key = private_key(path(KEY))?;
        let revoked = match read(&path(REVOKED)) {
            Ok(bytes) => revocations(path(REVOKED), &bytes)?,
            Err(TlsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        Ok(Self { directory: directory.to_owned(), ca, chain, key, revoked })
    }

    /// The path of one of the files, for error messages.
    pub(super) fn path(&self, file: File) -> PathBuf {
        self.directory.join(match file {
            File::Ca => CA,
            File::Own => CERTIFICATE,
            File::Key => KEY,
            File::Revoked => REVOKED,
        })
    }
}

/// One of the files.
#[derive(Clone, Copy)]
pub(super) enum File {
    Ca,
    Own,
    Key,
    Revoked,
}

/// Maximum length of a file in bytes: a list of a million revoked certificates.
const LONGEST: u64 = 64 << 20;

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    // Checked before the open: opening a pipe waits for its other end, and at HUP the agent is
    // serving.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(TlsError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Err(TlsError::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

fn private_key(path: PathBuf) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(&path)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let locked = bytes.windows(9).any(|part| part == b"ENCRYPTED");
            let what = if locked { "private key without a passphrase" } else { "private key" };
            Err(TlsError::Empty { what, path })
        }
        Err(why) => Err(not_pem(path, &why)),
    }
}

/// An empty list is valid: it revokes nothing.
fn revocations(
    path: PathBuf,
    bytes: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let found = CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    match found {
        // A file that should revoke something and contains no list is an error.
        Ok(found) if found.is_empty() => {
            Err(TlsError::Empty { what: "certificate revocation list", path })
        }
        found => found.map_err(|why| not_pem(path, &why)),
    }
}

fn not_pem(path: PathBuf, why: &pem::Error) -> TlsError {
    TlsError::NotPem { path, why: why.to_string() }
}
