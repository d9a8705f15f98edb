//! Numbers, sizes and durations in nbdkit's syntax.
//!
//! The command line and the plugins' parameters are parsed with this.

pub(crate) use human::{DurationError, SizeError, parse_duration, parse_size};
use thiserror::Error;

/// A number as nbdkit reads it (`nbdkit_parse_*int*`): decimal, hexadecimal with `0x`, octal with `0`.
pub(crate) fn parse_number<N: TryFrom<u64>>(text: &str) -> Result<N, NumberError> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hexadecimal) => (hexadecimal, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // `from_str_radix` would accept a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let number = plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten();
    number.and_then(|number| N::try_from(number).ok()).ok_or(NumberError)
}

/// The text is not a number, or the number does not fit the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("write a whole number: decimal, hexadecimal with 0x, or octal with 0")]
pub(crate) struct NumberError;

#[cfg(test)]
mod tests {
    use super::*;

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
}
