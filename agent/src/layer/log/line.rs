//! A line of the log, as nbdkit's text, as JSON, or as the variables of a script.

use std::{
    fmt::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use disk::Extent;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Enter,
    Leave,
    Print,
}

#[derive(Debug)]
pub(super) enum Value {
    Hex(u64),
    Number(i64),
    /// A text without quotes.
    Name(&'static str),
    Text(String),
    Texts(Vec<String>),
    /// Extents from an offset on.
    Extents(u64, Vec<Extent>),
}

#[derive(Debug)]
pub(super) struct Line {
    time: SystemTime,
    connection: Option<u64>,
    kind: Type,
    act: &'static str,
    id: Option<u64>,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    pub(super) fn new(
        connection: Option<u64>,
        kind: Type,
        act: &'static str,
        id: Option<u64>,
        fields: Vec<(&'static str, Value)>,
    ) -> Self {
        Self { time: SystemTime::now(), connection, kind, act, id, fields }
    }

    /// About the memory that the line takes in the queue, in bytes. Its lists may be long.
    pub(super) fn bytes(&self) -> usize {
        let long = |(_, value): &(_, Value)| match value {
            Value::Extents(_, extents) => size_of_val(&extents[..]),
            Value::Text(text) => text.len(),
            Value::Texts(texts) => texts.iter().map(|text| size_of::<String>() + text.len()).sum(),
            _ => 0,
        };
        let lists: usize = self.fields.iter().map(long).sum();
        size_of::<Self>() + size_of_val(&self.fields[..]) + lists
    }

    /// nbdkit's line.
    pub(super) fn text(&self) -> String {
        let mut out = timestamp(self.time, ' ');
        if let Some(connection) = self.connection {
            add(&mut out, format_args!(" connection={connection}"));
        }
        let dots = if self.kind == Type::Leave { "..." } else { "" };
        add(&mut out, format_args!(" {dots}{}", self.act));
        if let Some(id) = self.id {
            add(&mut out, format_args!(" id={id}"));
        }
        for (name, value) in &self.fields {
            add(&mut out, format_args!(" {name}={}", value.quoted()));
        }
        if self.kind == Type::Enter {
            out.push_str(" ...");
        }
        out.push('\n');
        out
    }

    pub(super) fn json(&self) -> String {
        let mut out = format!("{{\"time\":\"{}Z\"", timestamp(self.time, 'T'));
        if let Some(connection) = self.connection {
            add(&mut out, format_args!(",\"connection\":{connection}"));
        }
        add(&mut out, format_args!(",\"type\":\"{}\",\"act\":\"{}\"", self.kind(), self.act));
        if let Some(id) = self.id {
            add(&mut out, format_args!(",\"id\":{id}"));
        }
        for (name, value) in &self.fields {
            add(&mut out, format_args!(",\"{name}\":{}", value.json()));
        }
        out.push_str("}\n");
        out
    }

    /// The names and values that a script is given.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![("act", self.act.to_owned()), ("type", self.kind().to_owned())];
        variables.extend(self.connection.map(|number| ("connection", number.to_string())));
        variables.extend(self.id.map(|id| ("id", id.to_string())));
        variables.extend(self.fields.iter().map(|(name, value)| (*name, value.plain())));
        variables
    }

    fn kind(&self) -> &'static str {
        match self.kind {
            Type::Enter => "ENTER",
            Type::Leave => "LEAVE",
            Type::Print => "PRINT",
        }
    }
}

fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes everything");
}

impl Value {
    fn quoted(&self) -> String {
        match self {
            Self::Text(text) => quote(text),
            Self::Texts(texts) => {
                let texts: Vec<_> = texts.iter().map(|text| quote(text)).collect();
                format!("({})", texts.join(" "))
            }
            Self::Extents(at, extents) => {
                let list = runs(*at, extents);
                let list = list.map(|(at, len, kind)| format!("{at:#x} {len:#x} \"{kind}\""));
                format!("({})", list.collect::<Vec<_>>().join(" "))
            }
            _ => self.plain(),
        }
    }

    fn plain(&self) -> String {
        match self {
            Self::Hex(number) => format!("{number:#x}"),
            Self::Number(number) => number.to_string(),
            Self::Name(name) => (*name).to_owned(),
            // A variable cannot hold NUL. No export with NUL in its name can be opened.
            Self::Text(text) => text.replace('\0', ""),
            Self::Texts(texts) => texts.join(" ").replace('\0', ""),
            Self::Extents(at, extents) => {
                let list = runs(*at, extents);
                let list = list.map(|(at, len, kind)| format!("{at:#x} {len:#x} {kind}"));
                list.collect::<Vec<_>>().join(" ")
            }
        }
    }

    fn json(&self) -> String {
        match self {
            Self::Hex(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Name(name) => format!("\"{name}\""),
            Self::Text(text) => json(text),
            Self::Texts(texts) => {
                let texts: Vec<_> = texts.iter().map(|text| json(text)).collect();
                format!("[{}]", texts.join(","))
            }
            Self::Extents(at, extents) => {
                let list = runs(*at, extents).map(|(at, len, kind)| {
                    format!("{{\"offset\":{at},\"length\":{len},\"type\":\"{kind}\"}}")
                });
                format!("[{}]", list.collect::<Vec<_>>().join(","))
            }
        }
    }
}

fn runs(mut at: u64, extents: &[Extent]) -> impl Iterator<Item = (u64, u64, &'static str)> {
    extents.iter().map(move |extent| {
        let start = at;
        at += extent.len;
        let kind = match (extent.hole, extent.zero) {
            (true, true) => "hole,zero",
            (true, false) => "hole",
            (false, true) => "zero",
            (false, false) => "",
        };
        (start, extent.len, kind)
    })
}

/// The text, quoted for a shell. Unlike with nbdkit, the line never breaks.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:%@+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut out = String::new();
    if text.chars().any(char::is_control) {
        out.push_str("$'");
        for c in text.chars() {
            match c {
                '\'' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                c if c.is_control() => add(&mut out, format_args!("\\u{:04x}", u32::from(c))),
                c => out.push(c),
            }
        }
        out.push('\'');
    } else {
        out.push('"');
        for c in text.chars() {
            if matches!(c, '"' | '\\' | '$' | '`') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    }
    out
}

fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => add(&mut out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `2026-01-31 23:59:59.123456`, UTC.
fn timestamp(time: SystemTime, between: char) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years start in March, so that the leap day is the last day of a year. 400 years are 146097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}.{micros:06}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00.000001"),
            (951_782_399, "2000-02-28 23:59:59.000001"),
            (951_782_400, "2000-02-29 00:00:00.000001"),
            (1_798_761_599, "2026-12-31 23:59:59.000001"),
            (4_107_542_400, "2100-03-01 00:00:00.000001"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(1);
            assert_eq!(timestamp(time, ' '), expected);
        }
    }

    #[test]
    fn strings_are_quoted_as_nbdkit_quotes_them_and_stay_in_their_line() {
        for (text, quoted, in_json) in [
            ("", "\"\"", "\"\""),
            ("a", "a", "\"a\""),
            ("b c", "\"b c\"", "\"b c\""),
            ("x\"$`\\y", "\"x\\\"\\$\\`\\\\y\"", "\"x\\\"$`\\\\y\""),
            ("a\n'\u{1b}", "$'a\\n\\'\\u001b'", "\"a\\u000a'\\u001b\""),
        ] {
            assert_eq!(quote(text), quoted);
            assert_eq!(json(text), in_json);
        }
    }
}
