//! Sizes in nbdkit's syntax (`nbdkit_parse_size`): a number and one suffix.

use std::num::{IntErrorKind, ParseIntError};

use thiserror::Error;

/// The largest size of a disk in bytes: 2^63 - 1.
pub const SIZE_MAX: u64 = i64::MAX as u64;

/// The suffixes and their values in bytes, largest first. `s` is a sector of 512 bytes, whatever the
/// sectors of the disk are.
const SUFFIXES: [(char, u64); 8] = [
    ('E', 1 << 60),
    ('P', 1 << 50),
    ('T', 1 << 40),
    ('G', 1 << 30),
    ('M', 1 << 20),
    ('K', 1 << 10),
    ('S', 512),
    ('B', 1),
];

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SizeError {
    /// There is no text.
    #[error("it is empty; write a size such as 512M or 10G")]
    Empty,
    /// The number has a minus sign.
    #[error("a size cannot be negative")]
    Negative,
    /// The text does not start with a digit.
    #[error("it does not start with a whole number; write a size such as 512M or 10G")]
    NotANumber,
    /// What follows the number is not one of the suffixes.
    #[error(
        "'{0}' is not a suffix of sizes; known suffixes are b, k, M, G, T, P, E and s (sectors)"
    )]
    Suffix(String),
    /// The size is larger than [`SIZE_MAX`].
    #[error("it is more than the largest size, {SIZE_MAX} bytes (2^63 - 1)")]
    TooBig,
}

/// Reads a size in bytes, at most [`SIZE_MAX`]. Suffixes have either case and are powers of 1024.
///
/// ```
/// assert_eq!(human::parse_size("10G"), Ok(10 << 30));
/// assert_eq!(human::parse_size("3s"), Ok(3 * 512));
/// ```
///
/// # Errors
///
/// [`SizeError`] says what is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    if text.is_empty() {
        return Err(SizeError::Empty);
    }
    if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return Err(SizeError::Negative);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => SizeError::TooBig,
        _ => SizeError::NotANumber,
    })?;
    let mut letters = suffix.chars();
    let scale = match (letters.next(), letters.next()) {
        (None, _) => 1,
        (Some(letter), None) => SUFFIXES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(&letter))
            .map(|&(_, scale)| scale)
            .ok_or_else(|| SizeError::Suffix(suffix.to_owned()))?,
        _ => return Err(SizeError::Suffix(suffix.to_owned())),
    };
    number.checked_mul(scale).filter(|&size| size <= SIZE_MAX).ok_or(SizeError::TooBig)
}

/// The suffixes from K to E, largest first.
fn letters() -> impl Iterator<Item = (char, u64)> {
    SUFFIXES.into_iter().filter(|(letter, _)| !matches!(letter, 'S' | 'B'))
}

/// Writes a size with the largest suffix that is exact, as nbdinfo does: `1536M`. `None` if no
/// suffix is exact.
pub fn exact_size(size: u64) -> Option<String> {
    let (letter, scale) = letters().find(|(_, scale)| size != 0 && size.is_multiple_of(*scale))?;
    Some(format!("{}{letter}", size / scale))
}

/// Writes the exact size in bytes and a rounded one: `1073741824 bytes (1.0 GiB)`.
pub fn print_size(size: u64) -> String {
    let Some((letter, scale)) = letters().find(|(_, scale)| size >= *scale) else {
        return format!("{size} bytes");
    };
    let tenths = u128::from(size) * 10 / u128::from(scale);
    format!("{size} bytes ({}.{} {letter}iB)", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_nbdkit_reads_them() {
        let table = [
            ("0", 0),
            ("1", 1),
            ("010", 10),
            ("1b", 1),
            ("1B", 1),
            ("3s", 1536),
            ("3S", 1536),
            ("1k", 1 << 10),
            ("1K", 1 << 10),
            ("1m", 1 << 20),
            ("10G", 10 << 30),
            ("2t", 2 << 40),
            ("2P", 2 << 50),
            ("7E", 7 << 60),
            ("9223372036854775807", SIZE_MAX),
        ];
        for (text, size) in table {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
    }

    #[test]
    fn an_invalid_size_is_refused_with_its_reason() {
        let suffix = |text: &str| SizeError::Suffix(text.to_owned());
        let table = [
            ("", SizeError::Empty),
            ("-1", SizeError::Negative),
            ("-", SizeError::NotANumber),
            ("G", SizeError::NotANumber),
            ("x1", SizeError::NotANumber),
            (" 1", SizeError::NotANumber),
            ("+1", SizeError::NotANumber),
            ("1.5G", suffix(".5G")),
            ("1kk", suffix("kk")),
            ("1 ", suffix(" ")),
            ("0x10", suffix("x10")),
            ("1é", suffix("é")),
            ("8E", SizeError::TooBig),
            ("16E", SizeError::TooBig),
            ("9223372036854775808", SizeError::TooBig),
            ("99999999999999999999", SizeError::TooBig),
        ];
        for (text, error) in table {
            assert_eq!(parse_size(text), Err(error), "{text}");
        }
    }

    #[test]
    fn an_exact_size_is_read_back() {
        for (size, text) in [
            (0, None),
            (513, None),
            (1000, None),
            (1024, Some("1K")),
            (1536, None),
            (1536 << 20, Some("1536M")),
            (2_125_119_488, Some("2075312K")),
            (1 << 30, Some("1G")),
            (7 << 60, Some("7E")),
        ] {
            assert_eq!(exact_size(size).as_deref(), text, "{size}");
            assert!(text.is_none_or(|text| parse_size(text) == Ok(size)), "{size}");
        }
        // Larger than any disk, but a server can send the number.
        assert_eq!(exact_size(3 << 61).as_deref(), Some("6E"));
        assert_eq!(exact_size(1 << 63).as_deref(), Some("8E"));
    }

    #[test]
    fn a_printed_size_has_its_bytes_and_about_how_much_that_is() {
        assert_eq!(print_size(100), "100 bytes");
        assert_eq!(print_size(1 << 30), "1073741824 bytes (1.0 GiB)");
        assert_eq!(print_size((1 << 63) - 1), "9223372036854775807 bytes (7.9 EiB)");
    }
}
