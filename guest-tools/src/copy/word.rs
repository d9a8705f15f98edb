//! One side of a copy as it is written on the command line. Nothing is opened here.

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr};

use nbd::{Uri, uri::UriError};
use thiserror::Error;

/// A source or a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    Uri(Uri),
    /// A file, a block device, or anything else that has a path.
    Path(PathBuf),
    /// `-`: standard input or standard output.
    Stdio,
    /// `null:`. It discards everything, and can only be a destination.
    Null,
}

/// Why a word does not name a side of a copy.
#[derive(Debug, Error)]
pub(crate) enum WordError {
    #[error("{0}; a file whose name begins like an address is written ./NAME")]
    Uri(#[from] UriError),
    #[error("it is empty: an address, a file, a block device or - is wanted")]
    Empty,
}

impl FromStr for Word {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
        let (base, transport) =
            scheme.split_once('+').map_or((&*scheme, None), |(a, b)| (a, Some(b)));
        match text {
            "" => Err(WordError::Empty),
            "-" => Ok(Self::Stdio),
            "null:" => Ok(Self::Null),
            _ if matches!(base, "nbd" | "nbds") && transport != Some("") => {
                Ok(Self::Uri(text.parse()?))
            }
            _ => {
                let Ok(path): Result<PathBuf, Infallible> = text.parse();
                Ok(Self::Path(path))
            }
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(uri) => uri.fmt(f),
            Self::Path(path) => path.display().fmt(f),
            Self::Stdio => f.write_str("-"),
            Self::Null => f.write_str("null:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (text, kind) in [
            ("-", "Stdio"),
            ("null:", "Null"),
            ("disk.img", "Path"),
            ("./nbd:x", "Path"),
            ("C:disk", "Path"),
            ("nbd://127.0.0.1/", "Uri"),
            ("NBD+unix:///?socket=/s", "Uri"),
            ("nbd+vsock://2/", "Uri"),
            ("nbd:unix:x", "wrong"),
            ("nbd+sctp://x/", "wrong"),
            ("", "wrong"),
        ] {
            let found = match text.parse() {
                Ok(Word::Stdio) => "Stdio",
                Ok(Word::Null) => "Null",
                Ok(Word::Path(_)) => "Path",
                Ok(Word::Uri(_)) => "Uri",
                Err(_) => "wrong",
            };
            assert_eq!(found, kind, "{text}");
        }
    }
}
