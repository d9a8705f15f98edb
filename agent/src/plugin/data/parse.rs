//! The language of `data=`, nbdkit-data-plugin(1), DATA FORMAT: read once from left to right, each
//! expression becoming its content.

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, Read},
    process::{Command, Stdio},
};

use thiserror::Error;

use super::content::{Content, LONGEST, Wrong};

/// Parentheses and variables in one another, at most.
const DEEPEST: usize = 100;
/// Bytes that a file or a command may give, at most: it may be one that never ends.
const MOST: u64 = 1 << 30;

/// Why a text is not data: where, and what is wrong there.
#[derive(Debug, Error)]
#[error("at {place}: {why}")]
pub(super) struct DataError {
    place: Place,
    #[source]
    why: Why,
}

/// Character and line of the text, from 1, and in which text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    /// The variable that the text is the value of.
    variable: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, character {}", self.line, self.column)?;
        self.variable.as_ref().map_or(Ok(()), |name| write!(f, " of ${name}"))
    }
}

#[derive(Debug, Error)]
enum Why {
    #[error("'{0}' is no part of this language")]
    Unknown(char),
    #[error("'{0}' is not a number that fits here ({1})")]
    Number(String, &'static str),
    #[error("@-{0} goes before the beginning")]
    Before(u64),
    #[error("@^{0}: an alignment is a power of two")]
    Alignment(u64),
    #[error("there is nothing before '{0}' that it could be about")]
    Nothing(char),
    #[error("[{from}:{to}] is no part of {len} bytes")]
    Slice { from: u64, to: u64, len: u64 },
    #[error("this string has no end")]
    OpenString,
    #[error("\\{0} is not known in a string; write \\xNN, \\n, \\t, \\\\ or \\\"")]
    Escape(char),
    #[error("a '(' here has no ')'")]
    Open,
    #[error("a ')' too many")]
    Close,
    #[error("a slice is [FROM:TO], and FROM or TO may be left out")]
    Brackets,
    #[error("\\{0} is not assigned (EXPRESSION -> \\{0})")]
    Name(String),
    #[error("a name is a backslash and letters, digits, - or _")]
    NoName,
    #[error("${0} is neither a parameter nor in the environment")]
    Variable(String),
    #[error("a '<' is followed by the name of a file or by (COMMAND)")]
    NoFile,
    #[error("the file {0} cannot be read")]
    File(String, #[source] io::Error),
    #[error("the command ({0}) failed: {1}")]
    Command(String, String),
    #[error("it gives more than {MOST} bytes; take a part of it: [:LENGTH]")]
    Endless,
    #[error("the disk would be longer than 2^63 - 1 bytes")]
    TooLong,
    #[error("too much in one another")]
    Deep,
}

/// Where the values of variables come from.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a text.
pub(super) fn parse(text: &str, variables: Variables<'_>) -> Result<Content, DataError> {
    let mut parser = Parser { text, at: 0, variables, variable: None, depth: 0 };
    let content = parser.scope(&HashMap::new(), false)?;
    Ok(content)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    variables: Variables<'a>,
    variable: Option<&'a str>,
    depth: usize,
}

type Names = HashMap<String, Content>;

/// An expression that has been read and not yet put down.
enum Last {
    None,
    Content(Content),
    /// Read as far as it is wanted.
    Lazy(Source),
}

enum Source {
    File(String),
    Command(String),
}

impl Parser<'_> {
    fn error(&self, at: usize, why: Why) -> DataError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let variable = self.variable.map(str::to_owned);
        DataError { place: Place { line, column, variable }, why }
    }

    fn wrong(&self, at: usize, wrong: Wrong) -> DataError {
        let why = match wrong {
            Wrong::Long | Wrong::Outside => Why::TooLong,
            Wrong::Deep => Why::Deep,
        };
        self.error(at, why)
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, wanted: &str) -> bool {
        let there = self.rest().starts_with(wanted);
        if there {
            self.at += wanted.len();
        }
        there
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        let word = rest.get(..end).unwrap_or_default().to_owned();
        self.at += end;
        word
    }

    fn blanks(&mut self) {
        loop {
            self.take(char::is_whitespace);
            if !self.eat("#") {
                return;
            }
            self.take(|c| c != '\n');
        }
    }

    /// Decimal, 0 octal or 0x hexadecimal.
    fn number(&mut self, most: u64, what: &'static str) -> Result<u64, DataError> {
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

    /// Up to the end of the text, or of the parentheses that are `open`.
    fn scope(&mut self, outer: &Names, open: bool) -> Result<Content, DataError> {
        let begin = self.at;
        let mut names = outer.clone();
        let mut parts = Vec::new();
        let (mut offset, mut size) = (0_u64, 0_u64);
        let mut last = Last::None;
        loop {
            self.blanks();
            let at = self.at;
            let next = self.peek();
            // What is about the expression before.
            match next {
                Some('*') => {
                    self.at += 1;
                    self.blanks();
                    let content = self.needed(last, '*', at)?;
                    let times = self.number(u64::MAX, "how often")?;
                    let repeated = content.repeated(times);
                    last = Last::Content(repeated.map_err(|wrong| self.wrong(at, wrong))?);
                    continue;
                }
                Some('[') => {
                    self.at += 1;
                    last = Last::Content(self.slice(last, at)?);
                    continue;
                }
                Some('-') if self.eat("->") => {
                    let content = self.needed(last, '-', at)?;
                    self.blanks();
                    let name = self.name()?;
                    names.insert(name, content);
                    last = Last::None;
                    continue;
                }
                _ => {}
            }
            // Nothing is: it is put down.
            if let Some(content) = self.content(last, None, at)? {
                let end = offset.checked_add(content.len()).filter(|end| *end <= LONGEST);
                let end = end.ok_or_else(|| self.error(at, Why::TooLong))?;
                parts.push((offset, content));
                offset = end;
                size = size.max(offset);
            }
            last = Last::None;
            let whole = |parser: &Self, parts| {
                Content::parts(parts, size).map_err(|wrong| parser.wrong(begin, wrong))
            };
            let Some(next) = next else {
                return if open { Err(self.error(begin, Why::Open)) } else { whole(self, parts) };
            };
            match next {
                ')' if open => {
                    self.at += 1;
                    return whole(self, parts);
                }
                ')' => return Err(self.error(at, Why::Close)),
                '@' => {
                    self.at += 1;
                    offset = self.offset(offset, at)?;
                    size = size.max(offset);
                }
                _ => last = self.expression(next, &names)?,
            }
        }
    }

    /// Where `@` goes.
    fn offset(&mut self, now: u64, at: usize) -> Result<u64, DataError> {
        let what = "an offset, up to 2^63 - 1";
        if self.eat("+") {
            let more = self.number(LONGEST, what)?;
            let sum = now.checked_add(more).filter(|sum| *sum <= LONGEST);
            return sum.ok_or_else(|| self.error(at, Why::TooLong));
        }
        if self.eat("-") {
            let less = self.number(LONGEST, what)?;
            return now.checked_sub(less).ok_or_else(|| self.error(at, Why::Before(less)));
        }
        if self.eat("^") {
            let unit = self.number(LONGEST, what)?;
            if !unit.is_power_of_two() {
                return Err(self.error(at, Why::Alignment(unit)));
            }
            let next = now.checked_next_multiple_of(unit).filter(|next| *next <= LONGEST);
            return next.ok_or_else(|| self.error(at, Why::TooLong));
        }
        self.number(LONGEST, what)
    }

    /// One expression, of which the first character is `next`.
    fn expression(&mut self, next: char, names: &Names) -> Result<Last, DataError> {
        let at = self.at;
        let bytes = |bytes: Vec<u8>| Ok(Last::Content(Content::bytes(bytes)));
        match next {
            '(' => {
                self.at += 1;
                self.deeper(at)?;
                let content = self.scope(names, true)?;
                self.depth -= 1;
                Ok(Last::Content(content))
            }
            '"' => bytes(self.string()?),
            '\\' => {
                let name = self.name()?;
                let content = names.get(&name).cloned();
                content.map(Last::Content).ok_or_else(|| self.error(at, Why::Name(name)))
            }
            '$' => {
                self.at += 1;
                let name = self.take(|c| c.is_ascii_alphanumeric() || c == '_');
                let Some(text) = (self.variables)(&name) else {
                    return Err(self.error(at, Why::Variable(name)));
                };
                self.deeper(at)?;
                let depth = self.depth;
                let variables = self.variables;
                let mut inner =
                    Parser { text: &text, at: 0, variables, variable: Some(&name), depth };
                let content = inner.scope(names, false)?;
                self.depth -= 1;
                Ok(Last::Content(content))
            }
            '<' => {
                self.at += 1;
                Ok(Last::Lazy(self.source(at)?))
            }
            '0'..='9' => bytes(vec![self.number(255, "a byte: 0 to 255")?.to_le_bytes()[0]]),
            'l' | 'b' => {
                for (prefix, len) in [("16:", 2), ("32:", 4), ("64:", 8)] {
                    let little = next == 'l';
                    if self.eat(&format!("{}{prefix}", if little { "le" } else { "be" })) {
                        let most = u64::MAX >> (64 - 8 * len);
                        let mut word = self.number(most, "a word of so many bits")?.to_le_bytes();
                        let word = &mut word[..len];
                        if !little {
                            word.reverse();
                        }
                        return bytes(word.to_vec());
                    }
                }
                Err(self.error(at, Why::Unknown(next)))
            }
            other => Err(self.error(at, Why::Unknown(other))),
        }
    }

    fn deeper(&mut self, at: usize) -> Result<(), DataError> {
        self.depth += 1;
        if self.depth > DEEPEST { Err(self.error(at, Why::Deep)) } else { Ok(()) }
    }

    /// `\NAME`.
    fn name(&mut self) -> Result<String, DataError> {
        let at = self.at;
        let backslash = self.eat("\\");
        let name = self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if backslash && !name.is_empty() { Ok(name) } else { Err(self.error(at, Why::NoName)) }
    }

    /// `"..."`, with C's escapes.
    fn string(&mut self) -> Result<Vec<u8>, DataError> {
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

    /// Behind `<`: a file, or a command in parentheses.
    fn source(&mut self, at: usize) -> Result<Source, DataError> {
        if !self.eat("(") {
            let name = self.take(|c| !c.is_whitespace() && !matches!(c, '*' | '[' | ')'));
            return if name.is_empty() {
                Err(self.error(at, Why::NoFile))
            } else {
                Ok(Source::File(name))
            };
        }
        let mut open = 1;
        let rest = self.rest();
        for (end, c) in rest.char_indices() {
            open += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            if open == 0 {
                let command = rest.get(..end).unwrap_or_default().to_owned();
                self.at += end + 1;
                return Ok(Source::Command(command));
            }
        }
        Err(self.error(at, Why::Open))
    }

    fn needed(&self, last: Last, sign: char, at: usize) -> Result<Content, DataError> {
        let content = self.content(last, None, at)?;
        content.ok_or_else(|| self.error(at, Why::Nothing(sign)))
    }

    /// What was read, if anything was; of a file or a command the first `most` bytes are enough.
    fn content(
        &self,
        last: Last,
        most: Option<u64>,
        at: usize,
    ) -> Result<Option<Content>, DataError> {
        match last {
            Last::None => Ok(None),
            Last::Content(content) => Ok(Some(content)),
            Last::Lazy(source) => {
                let read = source.read(most).map_err(|why| self.error(at, why))?;
                Ok(Some(Content::bytes(read)))
            }
        }
    }

    /// `FROM:TO]` of what is before it.
    fn slice(&mut self, last: Last, at: usize) -> Result<Content, DataError> {
        let is_digit = |parser: &Self| parser.peek().is_some_and(|c| c.is_ascii_digit());
        let what = "an offset, up to 2^63 - 1";
        self.blanks();
        let from = if is_digit(self) { self.number(LONGEST, what)? } else { 0 };
        self.blanks();
        let colon = self.eat(":");
        self.blanks();
        let to = if is_digit(self) { Some(self.number(LONGEST, what)?) } else { None };
        self.blanks();
        if !(colon && self.eat("]")) {
            return Err(self.error(at, Why::Brackets));
        }
        let content = self.content(last, to, at)?;
        let content = content.ok_or_else(|| self.error(at, Why::Nothing('[')))?;
        let len = content.len();
        let to = to.unwrap_or(len);
        content.slice(from, to).map_err(|wrong| match wrong {
            Wrong::Outside => self.error(at, Why::Slice { from, to, len }),
            wrong => self.wrong(at, wrong),
        })
    }
}

impl Source {
    fn read(self, most: Option<u64>) -> Result<Vec<u8>, Why> {
        match self {
            Self::File(name) => {
                let file = fs::File::open(&name).map_err(|error| Why::File(name.clone(), error))?;
                limited(file, most, |error| Why::File(name.clone(), error))
            }
            Self::Command(command) => {
                let failed = |why: String| Why::Command(command.clone(), why);
                let mut shell = Command::new("/bin/sh");
                let shell = shell.arg("-c").arg(&command).stdin(Stdio::null());
                let mut child = shell
                    .stdout(Stdio::piped())
                    .spawn()
                    .map_err(|error| failed(error.to_string()))?;
                let read = child.stdout.take().map_or(Ok(Vec::new()), |stdout| {
                    limited(stdout, most, |error| failed(error.to_string()))
                });
                if most.is_some() || read.is_err() {
                    // It may go on for ever; no more of it is wanted.
                    child.kill().ok();
                    child.wait().ok();
                    return read;
                }
                match child.wait() {
                    Ok(status) if status.success() => read,
                    Ok(status) => Err(failed(status.to_string())),
                    Err(error) => Err(failed(error.to_string())),
                }
            }
        }
    }
}

/// All that comes, or the first `most` bytes.
fn limited(
    from: impl Read,
    most: Option<u64>,
    failed: impl Fn(io::Error) -> Why,
) -> Result<Vec<u8>, Why> {
    let mut bytes = Vec::new();
    let limit = most.unwrap_or(MOST + 1).min(MOST + 1);
    from.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST { Err(Why::Endless) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests;
