//! The language of `data=` (nbdkit-data-plugin(1), DATA FORMAT). The text is parsed once from left to right, and each
//! expression becomes its content.

mod lex;

use std::{collections::HashMap, fmt};

use thiserror::Error;

use super::{
    content::{Content, LONGEST, Wrong},
    source::{Source, SourceError},
};

/// Deepest nesting of parentheses and variables.
const DEEPEST: usize = 100;
/// Why a text is not data, and where.
#[derive(Debug, Error)]
#[error("at {place}: {why}")]
pub(super) struct DataError {
    place: Place,
    #[source]
    why: Why,
}

/// A character and a line, from 1, and the text that they are in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    /// The variable whose value is the text; `None` for `data=` itself.
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
    #[error("there is no expression before '{0}'")]
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
    #[error(transparent)]
    Source(SourceError),
    #[error("the disk would be longer than 2^63 - 1 bytes")]
    TooLong,
    #[error("nested too deeply")]
    Deep,
}

/// Looks up the values of variables.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Parses a text.
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

/// An expression that has been parsed and not yet added to the contents.
enum Last {
    None,
    Content(Content),
    /// A source, read as far as it is needed.
    Lazy(Source),
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

    /// Parses up to the end of the text, or of the parentheses if they are `open`.
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
            // An operator on the expression before.
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
            // Without an operator the expression is added to the contents.
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

    /// The new offset after `@`.
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

    /// Parses one expression, whose first character is `next`.
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

    /// Parses the source after `<`: a file, or a command in parentheses.
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

    /// The content of the last expression, if there is one. `most`: only the first bytes of a source are needed.
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
                let read = source.read(most).map_err(|error| self.error(at, Why::Source(error)))?;
                Ok(Some(Content::bytes(read)))
            }
        }
    }

    /// Parses `FROM:TO]`, a slice of the expression before it.
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

#[cfg(test)]
mod tests;
