//! The parameters of one plugin or filter. Each is known, has a type, and is given as often as it may be.

use std::{
    error::Error,
    fmt,
    path::{self, PathBuf},
    str::FromStr,
    time::Duration,
};

use thiserror::Error;

use crate::units::{parse_duration, parse_size};

/// The kind of a built-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plugin,
    Filter,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plugin => "plugin",
            Self::Filter => "filter",
        })
    }
}

/// `KEY=VALUE`, or a value without a key.
pub(crate) type Word = (Option<String>, String);

/// A parameter that a plugin or a filter knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub name: &'static str,
    /// The value, for help: `SIZE`, `PATH`, `on|off`.
    pub value: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// The parameter may be given more than once.
    pub many: bool,
    /// The key stands for every name that no other key has.
    pub free: bool,
}

impl Key {
    pub(crate) const fn once(name: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { name, value, about, many: false, free: false }
    }

    pub(crate) const fn many(name: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { name, value, about, many: true, free: false }
    }

    /// A key for every other name. `name` is a placeholder for help.
    pub(crate) const fn free(name: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { name, value, about, many: true, free: true }
    }
}

/// A path that stays the same when the agent goes into the background, and with it to `/`.
pub(crate) fn absolute(path: &str) -> PathBuf {
    // This fails for an empty path only, which the caller then cannot open.
    path::absolute(path).unwrap_or_else(|_| path.into())
}

/// Why parameters are wrong.
#[derive(Debug, Error)]
pub(crate) enum ParamError {
    #[error("{kind} {name}: unknown parameter '{key}'; known are: {}", .known.join(", "))]
    Unknown { kind: Kind, name: &'static str, key: String, known: Vec<&'static str> },
    #[error("{kind} {name}: it takes no value without a key, such as '{value}'")]
    Bare { kind: Kind, name: &'static str, value: String },
    #[error("{kind} {name}: parameter '{key}' is given twice")]
    Twice { kind: Kind, name: &'static str, key: &'static str },
    #[error("{kind} {name}: parameter '{key}' is missing; known are: {}", .known.join(", "))]
    Missing { kind: Kind, name: &'static str, key: &'static str, known: Vec<&'static str> },
    #[error("{kind} {name}: {key}={value} is not known; known are: {}", .known.join(", "))]
    Choice {
        kind: Kind,
        name: &'static str,
        key: &'static str,
        value: String,
        known: &'static [&'static str],
    },
    #[error("{kind} {name}: {key}={value} is not {what}")]
    Value {
        kind: Kind,
        name: &'static str,
        key: &'static str,
        value: String,
        what: &'static str,
        source: Box<dyn Error + Send + Sync>,
    },
}

/// The parameters that were given to one plugin or filter.
#[derive(Debug)]
pub(crate) struct Params<'a> {
    kind: Kind,
    name: &'static str,
    keys: &'static [Key],
    values: Vec<(&'static str, &'a str)>,
    free: Vec<(&'a str, &'a str)>,
}

impl<'a> Params<'a> {
    /// Takes the words that a filter knows out of `words`. The other words are for the stack below.
    pub(crate) fn of_filter(
        name: &'static str,
        keys: &'static [Key],
        words: &mut Vec<&'a Word>,
    ) -> Result<Self, ParamError> {
        let mut params =
            Self { kind: Kind::Filter, name, keys, values: Vec::new(), free: Vec::new() };
        let mut result = Ok(());
        words.retain(|(key, value)| {
            let known = key.as_deref().and_then(|key| keys.iter().find(|known| known.name == key));
            if let (Some(key), Ok(())) = (known, &result) {
                result = params.add(key, value);
            }
            known.is_none()
        });
        result.map(|()| params)
    }

    /// Takes all of `words` for a plugin. A value without a key is for `main`.
    pub(crate) fn of_plugin(
        name: &'static str,
        keys: &'static [Key],
        main: Option<&'static str>,
        words: &[&'a Word],
    ) -> Result<Self, ParamError> {
        let kind = Kind::Plugin;
        let mut params = Self { kind, name, keys, values: Vec::new(), free: Vec::new() };
        for (key, value) in words {
            let Some(wanted) = key.as_deref().or(main) else {
                return Err(ParamError::Bare { kind, name, value: value.clone() });
            };
            let known = keys.iter().find(|key| !key.free && key.name == wanted);
            if let (None, Some(name)) = (known, key)
                && keys.iter().any(|key| key.free)
            {
                params.free.push((name, value));
                continue;
            }
            let Some(key) = known else {
                let known = params.known();
                return Err(ParamError::Unknown { kind, name, key: wanted.to_owned(), known });
            };
            params.add(key, value)?;
        }
        Ok(params)
    }

    fn add(&mut self, key: &'static Key, value: &'a str) -> Result<(), ParamError> {
        if !key.many && self.value(key.name).is_some() {
            return Err(ParamError::Twice { kind: self.kind, name: self.name, key: key.name });
        }
        self.values.push((key.name, value));
        Ok(())
    }

    fn known(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    /// The value of a key that is given at most once.
    pub(crate) fn value(&self, key: &str) -> Option<&'a str> {
        self.values(key).next()
    }

    /// Every value of a key, in order.
    pub(crate) fn values(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.values.iter().filter(move |(known, _)| *known == key).map(|(_, value)| *value)
    }

    /// The names that no key has, and their values, in order.
    pub(crate) fn free(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.free.iter().copied()
    }

    /// The value of a key that must be given.
    pub(crate) fn needed(&self, key: &'static str) -> Result<&'a str, ParamError> {
        self.value(key).ok_or_else(|| self.missing(key))
    }

    pub(crate) fn missing(&self, key: &'static str) -> ParamError {
        ParamError::Missing { kind: self.kind, name: self.name, key, known: self.known() }
    }

    /// The error for a value of `key` that is not `what` ("a size"), because of `source`.
    pub(crate) fn wrong(
        &self,
        key: &'static str,
        value: &str,
        what: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> ParamError {
        let value = value.to_owned();
        ParamError::Value {
            kind: self.kind,
            name: self.name,
            key,
            value,
            what,
            source: source.into(),
        }
    }

    /// The value of `key`, parsed by `parse`. `what` says what it should be ("a size").
    pub(crate) fn parsed<T, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        key: &'static str,
        what: &'static str,
        parse: impl FnOnce(&'a str) -> Result<T, E>,
    ) -> Result<Option<T>, ParamError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        parse(value).map(Some).map_err(|error| self.wrong(key, value, what, error))
    }

    /// A size in bytes, in nbdkit's notation (`512`, `10M`).
    pub(crate) fn size(&self, key: &'static str) -> Result<Option<u64>, ParamError> {
        self.parsed(key, "a size", parse_size)
    }

    pub(crate) fn needed_size(&self, key: &'static str) -> Result<u64, ParamError> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A time (`3`, `500ms`).
    pub(crate) fn duration(&self, key: &'static str) -> Result<Option<Duration>, ParamError> {
        self.parsed(key, "a time", parse_duration)
    }

    /// A decimal number.
    pub(crate) fn number<N: FromStr<Err: Error + Send + Sync + 'static>>(
        &self,
        key: &'static str,
    ) -> Result<Option<N>, ParamError> {
        self.parsed(key, "a number", str::parse)
    }

    /// nbdkit's booleans (`nbdkit_parse_bool`): 1, true, t, yes, y, on, and their opposites, in any
    /// case.
    pub(crate) fn switch(&self, key: &'static str) -> Result<Option<bool>, ParamError> {
        self.parsed(key, "true or false", |text| match &*text.to_ascii_lowercase() {
            "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
            "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
            _ => Err("write true or false"),
        })
    }

    /// The meaning of the word that was given for `key`: `meanings` has one for each of `words`.
    pub(crate) fn choice<T: Copy>(
        &self,
        key: &'static str,
        words: &'static [&'static str],
        meanings: &[T],
    ) -> Result<Option<T>, ParamError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let meaning = words.iter().zip(meanings).find(|(word, _)| **word == value);
        let meaning = meaning.ok_or_else(|| ParamError::Choice {
            kind: self.kind,
            name: self.name,
            key,
            value: value.to_owned(),
            known: words,
        })?;
        Ok(Some(*meaning.1))
    }
}
