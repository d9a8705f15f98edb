//! Numbers and ranges of numbers in rules.

use std::fmt;

/// The numbers from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    first: u32,
    last: u32,
}

/// A number as nbdkit reads it (strtoul with base 0): `0x` is hexadecimal, a leading `0` octal.
pub(crate) fn parse_number(text: &str) -> Option<u32> {
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // `from_str_radix` accepts a sign, which is wrong here.
    if !digits.starts_with(|c: char| c.is_digit(base)) {
        return None;
    }
    u32::from_str_radix(digits, base).ok()
}

impl Numbers {
    /// `None` if `last` is below `first`.
    pub(crate) fn new(first: u32, last: u32) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Parses `7` or `3-9`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once('-') {
            Some((first, last)) => Self::new(parse_number(first)?, parse_number(last)?),
            None => parse_number(text).map(|only| Self { first: only, last: only }),
        }
    }

    pub(crate) fn contains(self, number: u32) -> bool {
        (self.first..=self.last).contains(&number)
    }

    pub(crate) fn first(self) -> u32 {
        self.first
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges_are_read() {
        for (text, numbers) in [
            ("0", Some((0, 0))),
            ("7", Some((7, 7))),
            ("3-9", Some((3, 9))),
            ("3-3", Some((3, 3))),
            ("0x10-0X1f", Some((16, 31))),
            ("010", Some((8, 8))),
            ("4294967295", Some((u32::MAX, u32::MAX))),
            ("", None),
            ("-", None),
            ("-1", None),
            ("3-", None),
            ("-9", None),
            ("9-3", None),
            ("1-2-3", None),
            ("+1", None),
            ("0x", None),
            ("0x+1", None),
            ("08", None),
            (" 1", None),
            ("1 ", None),
            ("3–9", None),
            ("4294967296", None),
        ] {
            let read = Numbers::parse(text);
            assert_eq!(read.map(|numbers| (numbers.first, numbers.last)), numbers, "{text}");
            if let Some(numbers) = read {
                assert_eq!(Numbers::parse(&numbers.to_string()), read, "{text}");
            }
        }
    }
}
