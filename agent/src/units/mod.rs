//! Sizes and times in the words of nbdkit (`nbdkit_parse_size`): a number and one suffix.
//!
//! The command line and the plugins' parameters are read with this.

mod duration;

use std::num::IntErrorKind;

use thiserror::Error;

pub use self::duration::{DurationError, parse_duration};

/// Most bytes that a disk may have: 2^63 - 1.
pub const SIZE_MAX: u64 = i64::MAX as u64;

/// What the suffixes stand for, biggest first. `s` is a sector of 512 bytes, whatever the disk's own.
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
    #[error("it is empty; write a size such as 512M or 10G")]
    Empty,
    #[error("a size cannot be negative")]
    Negative,
    #[error("it does not start with a whole number; write a size such as 512M or 10G")]
    NotANumber,
    #[error("'{0}' is not a suffix of sizes; known are b, k, M, G, T, P, E and s (sectors)")]
    Suffix(String),
    #[error("it is more than the largest size, {SIZE_MAX} bytes (2^63 - 1)")]
    TooBig,
}

/// Bytes; at most `SIZE_MAX`. Suffixes may be of either case and are powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    if text.is_empty() {
        return Err(SizeError::Empty);
    }
    if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return Err(SizeError::Negative);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|error: std::num::ParseIntError| match error.kind() {
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

/// The shortest exact way to write `size`: `parse_size` gives it back.
pub fn print_size(size: u64) -> String {
    let exact = SUFFIXES.iter().find(|(letter, scale)| {
        !matches!(letter, 'S' | 'B') && size != 0 && size.is_multiple_of(*scale)
    });
    match exact {
        Some((letter, scale)) => format!("{}{letter}", size / scale),
        None => size.to_string(),
    }
}

/// A number as nbdkit reads it (`nbdkit_parse_*int*`): decimal, hexadecimal with `0x`, octal with `0`.
pub fn parse_number<N: TryFrom<u64>>(text: &str) -> Result<N, NumberError> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hexadecimal) => (hexadecimal, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // `from_str_radix` takes a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let number = plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten();
    number.and_then(|number| N::try_from(number).ok()).ok_or(NumberError)
}

/// A text that is no number, or none of the size that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("write a whole number: decimal, hexadecimal with 0x, or octal with 0")]
pub struct NumberError;

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
    fn what_is_not_a_size_is_refused_with_its_reason() {
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
    fn numbers_are_those_of_strtoul() {
        for (text, number) in [
            ("0", Some(0)),
            ("3", Some(3)),
            ("0x1", Some(1)),
            ("0XfFfFfFfF", Some(u32::MAX)),
            ("012", Some(10)),
            ("4294967296", None),
            ("09", None),
            ("", None),
            ("0x", None),
            ("-1", None),
            ("+1", None),
            ("1 ", None),
        ] {
            assert_eq!(parse_number::<u32>(text).ok(), number, "{text}");
        }
        assert_eq!(parse_number::<u8>("256"), Err(NumberError));
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for (size, text) in
            [(0, "0"), (513, "513"), (1 << 30, "1G"), (1536 << 20, "1536M"), (7 << 60, "7E")]
        {
            assert_eq!(print_size(size), text);
            assert_eq!(parse_size(text), Ok(size));
        }
        assert_eq!(parse_size(&print_size(SIZE_MAX)), Ok(SIZE_MAX));
    }
}
