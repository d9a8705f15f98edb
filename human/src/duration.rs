//! Times in nbdkit's syntax: a number of seconds, or a number and a unit.

use std::time::Duration;

use thiserror::Error;

/// The units in nanoseconds.
const UNITS: [(&str, u64); 9] = [
    ("ns", 1),
    ("us", 1_000),
    // The micro sign and the Greek letter.
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("", 1_000_000_000),
];

/// A text that is not a time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("write a number of seconds (10, 1.5), or a number and one of ns, us, ms, s, m, h")]
pub struct DurationError;

/// Reads a time, such as 10 (seconds), 500ms, 1.5 or 2m. Fractions of a nanosecond are cut off.
///
/// ```
/// use std::time::Duration;
///
/// assert_eq!(human::parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
/// ```
///
/// # Errors
///
/// [`DurationError`] if the text is not a time, or is more than 2^64 - 1 ns (584 years).
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, unit) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if whole.is_empty() || (fraction.is_empty() && rest.starts_with('.')) {
        return Err(DurationError);
    }
    let &(_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(DurationError)?;
    let whole: u64 = whole.parse().map_err(|_| DurationError)?;
    let whole = whole.checked_mul(scale).ok_or(DurationError)?;
    // Each digit is worth a tenth of the one before it.
    let (part, _) = fraction.bytes().fold((0, scale), |(sum, worth), digit| {
        (sum + u64::from(digit - b'0') * worth / 10, worth / 10)
    });
    whole.checked_add(part).map(Duration::from_nanos).ok_or(DurationError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, expected) in [
            ("0", Some(Duration::ZERO)),
            ("10", Some(Duration::from_secs(10))),
            ("10s", Some(Duration::from_secs(10))),
            ("500ms", Some(Duration::from_millis(500))),
            ("7us", Some(Duration::from_micros(7))),
            ("7ns", Some(Duration::from_nanos(7))),
            ("2m", Some(Duration::from_mins(2))),
            ("1h", Some(Duration::from_hours(1))),
            ("", None),
            ("s", None),
            ("-1", None),
            ("+1", None),
            ("1.5", Some(Duration::from_millis(1500))),
            ("0.25s", Some(Duration::from_millis(250))),
            ("1.2\u{3bc}s", Some(Duration::from_nanos(1200))),
            ("1.2\u{b5}s", Some(Duration::from_nanos(1200))),
            ("1.5ns", Some(Duration::from_nanos(1))),
            ("1.", None),
            (".5", None),
            ("1.5.5", None),
            ("1.-5", None),
            ("1 s", None),
            ("1d", None),
            ("99999999999999999999", None),
            ("18446744073709551615", None),
        ] {
            assert_eq!(parse_duration(text).ok(), expected, "{text}");
        }
    }
}
