//! The words after the plugin's name: keys and values, and `@PATH`, which is replaced by the words
//! in a file.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::Stop;
use crate::params::Word;

/// Maximum size of a file of parameters in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Splits the words. A word that begins with `@` is the path of a file with one parameter per line.
/// Blank lines, lines that begin with `#`, and spaces around a line are ignored.
pub(super) fn words(params: &[String]) -> Result<Vec<Word>, Stop> {
    let mut words = Vec::new();
    for param in params {
        let Some(path) = param.strip_prefix('@') else {
            words.push(split(param));
            continue;
        };
        let text =
            read(Path::new(path)).map_err(|source| Stop::Params { path: path.into(), source })?;
        let lines = text.lines().map(str::trim);
        words.extend(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(split));
    }
    Ok(words)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(text)
}

/// nbdkit's rule for keys: a letter, then letters, digits, `.`, `_` and `-`, up to the first `=`.
/// Any other word is a value.
fn split(param: &str) -> Word {
    let key = |key: &str| {
        key.starts_with(|c: char| c.is_ascii_alphabetic())
            && key.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
    };
    match param.split_once('=') {
        Some((before, after)) if key(before) => (Some(before.to_owned()), after.to_owned()),
        _ => (None, param.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    fn pair(key: Option<&str>, value: &str) -> Word {
        (key.map(str::to_owned), value.to_owned())
    }

    #[test]
    fn parameters_are_split_as_by_nbdkit() {
        for (word, expected) in [
            ("1G", pair(None, "1G")),
            ("size=1G", pair(Some("size"), "1G")),
            ("size=", pair(Some("size"), "")),
            ("a.b-c_d1=x=y", pair(Some("a.b-c_d1"), "x=y")),
            ("=1", pair(None, "=1")),
            ("./a=b", pair(None, "./a=b")),
            ("1a=b", pair(None, "1a=b")),
            ("a b=c", pair(None, "a b=c")),
            ("", pair(None, "")),
            ("-", pair(None, "-")),
            ("./@x", pair(None, "./@x")),
        ] {
            assert_eq!(split(word), expected, "{word}");
        }
    }

    #[test]
    fn a_file_stands_for_its_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("words");
        fs::write(&path, "# a disk\n\n  size = 1G\nsize=2 G  \r\n\tbare\n#x=y\n@z\na=#b").unwrap();
        let at = format!("@{}", path.display());
        let found = words(&["first=1".into(), at, "last".into()]).unwrap();
        assert_eq!(
            found,
            [
                pair(Some("first"), "1"),
                pair(None, "size = 1G"),
                pair(Some("size"), "2 G"),
                pair(None, "bare"),
                pair(None, "@z"),
                pair(Some("a"), "#b"),
                pair(None, "last"),
            ]
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        for path in ["", "/nonexistent/words", "/", "/dev/zero"] {
            let Err(Stop::Params { path: named, .. }) = words(&[format!("@{path}")]) else {
                panic!("{path} was read");
            };
            assert_eq!(named, PathBuf::from(path));
        }
    }
}
