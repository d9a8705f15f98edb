//! Sizes on the command line: a number and one suffix, as nbdkit has them.

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
