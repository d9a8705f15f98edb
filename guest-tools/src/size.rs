//! Sizes on the command line: a number and one suffix, as nbdkit has them.

use std::time::Duration;

/// Powers of 1024 of either case; `s` is a sector of 512 bytes.
const SUFFIXES: [(char, u64); 8] = [
    ('b', 1),
    ('s', 512),
    ('k', 1 << 10),
    ('m', 1 << 20),
    ('g', 1 << 30),
    ('t', 1 << 40),
    ('p', 1 << 50),
    ('e', 1 << 60),
];

/// Bytes; at most 2^63 - 1.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, scale) = match text.char_indices().next_back() {
        Some((at, last)) if !last.is_ascii_digit() => {
            let known = SUFFIXES.iter().find(|(letter, _)| letter.eq_ignore_ascii_case(&last));
            let (_, scale) = known.ok_or("known suffixes are b, s, k, M, G, T, P and E")?;
            (&text[..at], *scale)
        }
        _ => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a size is a whole number and a suffix, such as 512M".to_owned());
    }
    let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    size.filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| "it is more than 2^63 - 1 bytes".to_owned())
}

/// A time on the command line: a number and ms, s (also when left out), m or h.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(at);
    let scale = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("known units are ms, s, m and h".to_owned()),
    };
    let number =
        digits.parse::<u32>().map_err(|_| "a time is a whole number and a unit, such as 30s")?;
    Ok(Duration::from_millis(u64::from(number) * scale))
}

/// The two numbers a person wants: all bytes, and about how much that is.
pub(crate) fn print_size(size: u64) -> String {
    let bigger = SUFFIXES.iter().skip(2).rev().find(|(_, scale)| size >= *scale);
    let Some((letter, scale)) = bigger else { return format!("{size} bytes") };
    let tenths = u128::from(size) * 10 / u128::from(*scale);
    let letter = letter.to_ascii_uppercase();
    format!("{size} bytes ({}.{} {letter}iB)", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, time) in [
            ("0", Some(0)),
            ("30s", Some(30_000)),
            ("30", Some(30_000)),
            ("50ms", Some(50)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1d", None),
            ("4294967296", None),
        ] {
            assert_eq!(parse_duration(text).ok(), time.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("1k", Some(1024)),
            ("2S", Some(1024)),
            ("3M", Some(3 << 20)),
            ("7e", Some(7 << 60)),
            ("9223372036854775807", Some((1 << 63) - 1)),
            ("8E", None),
            ("18446744073709551616", None),
            ("", None),
            ("k", None),
            ("1kk", None),
            ("1\u{e9}", None),
            ("-1", None),
            ("+1", None),
            ("1.5G", None),
        ] {
            assert_eq!(parse_size(text).ok(), size, "{text}");
        }
        assert_eq!(print_size(100), "100 bytes");
        assert_eq!(print_size(1 << 30), "1073741824 bytes (1.0 GiB)");
        assert_eq!(print_size((1 << 63) - 1), "9223372036854775807 bytes (7.9 EiB)");
    }
}
