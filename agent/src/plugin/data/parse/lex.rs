//! The tokens of the language: blanks and comments, numbers, names, strings.

use super::{DataError, Parser, Why};

impl Parser<'_> {
    pub(super) fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn eat(&mut self, wanted: &str) -> bool {
        let there = self.rest().starts_with(wanted);
        if there {
            self.at += wanted.len();
        }
        there
    }

    pub(super) fn take(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        let word = rest.get(..end).unwrap_or_default().to_owned();
        self.at += end;
        word
    }

    pub(super) fn blanks(&mut self) {
        loop {
            self.take(char::is_whitespace);
            if !self.eat("#") {
                return;
            }
            self.take(|c| c != '\n');
        }
    }

    /// Parses a number: decimal, octal with `0`, or hexadecimal with `0x`.
    pub(super) fn number(&mut self, most: u64, what: &'static str) -> Result<u64, DataError> {
        let begin = self.at;
        let word = self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+'));
        let number = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(hex) => u64::from_str_radix(hex, 16),
            None if word.len() > 1 && word.starts_with('0') => u64::from_str_radix(&word, 8),
            None => word.parse(),
        };
        let plain = !word.contains(['-', '+']);
        number
            .ok()
            .filter(|number| plain && *number <= most)
            .ok_or_else(|| self.error(begin, Why::Number(word, what)))
    }

    /// `\NAME`.
    pub(super) fn name(&mut self) -> Result<String, DataError> {
        let at = self.at;
        let backslash = self.eat("\\");
        let name = self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if backslash && !name.is_empty() { Ok(name) } else { Err(self.error(at, Why::NoName)) }
    }

    /// `"..."`, with C's escapes.
    pub(super) fn string(&mut self) -> Result<Vec<u8>, DataError> {
        let begin = self.at;
        let mut bytes = Vec::new();
        let mut rest = self.rest().char_indices().skip(1);
        while let Some((at, c)) = rest.next() {
            let (at, escaped) = match c {
                '"' => {
                    self.at += at + 1;
                    return Ok(bytes);
                }
                '\\' => match rest.next() {
                    Some((at, escaped)) => (at, escaped),
                    None => break,
                },
                c => {
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            let simple = ['a', 'b', 't', 'n', 'v', 'f', 'r'].iter().position(|c| *c == escaped);
            let (radix, most, skip) = match escaped {
                'x' => (16, 2, 1),
                '0'..='7' => (8, 3, 0),
                '\\' | '"' | '\'' | '?' => {
                    bytes.push(escaped as u8);
                    continue;
                }
                _ if let Some(position) = simple => {
                    bytes.push(7 + u8::try_from(position).unwrap_or(0));
                    continue;
                }
                _ => return Err(self.error(begin + at, Why::Escape(escaped))),
            };
            let digits = self.text.get(begin + at + skip..).unwrap_or_default();
            let digits: String =
                digits.chars().take(most).take_while(|c| c.is_digit(radix)).collect();
            let byte = u8::from_str_radix(&digits, radix);
            bytes.push(byte.map_err(|_| self.error(begin + at, Why::Escape(escaped)))?);
            for _ in 0..digits.len() + skip - 1 {
                rest.next();
            }
        }
        Err(self.error(begin, Why::OpenString))
    }
}
