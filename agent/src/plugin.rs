//! From nbdkit's words (a plugin's name and its parameters) to the exports that they mean.
//!
//! `plan` calls `build` once, at start. Files are opened here, so that what is wrong with them shows
//! before a client comes.

use std::{io, path::Path, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::{
    disk::{
        FileDisk, FullDisk, MemoryDisk, NullDisk, PatternDisk,
        file::{Advice, Cache, FileError, Options},
    },
    exports::{Directory, Exports, Single},
    units::{SizeError, parse_size},
};

/// A plugin that is built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plugin {
    File,
    Full,
    Memory,
    Null,
    Pattern,
}

const BUILT_IN: [(&str, Plugin); 5] = [
    ("file", Plugin::File),
    ("full", Plugin::Full),
    ("memory", Plugin::Memory),
    ("null", Plugin::Null),
    ("pattern", Plugin::Pattern),
];

/// nbdkit's other plugins, so that who knows them is told plainly.
const NOT_BUILT_IN: [&str; 44] = [
    "blkio",
    "cc",
    "cdi",
    "curl",
    "data",
    "eval",
    "example1",
    "example2",
    "example3",
    "example4",
    "ext2",
    "floppy",
    "gcs",
    "golang",
    "guestfs",
    "gzip",
    "info",
    "iso",
    "libvirt",
    "linuxdisk",
    "lua",
    "nbd",
    "ocaml",
    "ondemand",
    "ones",
    "partitioning",
    "perl",
    "python",
    "random",
    "ruby",
    "rust",
    "S3",
    "sh",
    "sparse-random",
    "split",
    "ssh",
    "streaming",
    "tar",
    "tcl",
    "tmpdisk",
    "torrent",
    "vddk",
    "xz",
    "zero",
];

/// Why no disk came of the words.
#[derive(Debug, Error)]
pub enum BuildError {
    #[error("there is no plugin '{plugin}'; built in are: {}", built_in())]
    UnknownPlugin { plugin: String },
    #[error("the plugin '{plugin}' is not built into agent; built in are: {}", built_in())]
    NotBuiltIn { plugin: String },
    #[error("plugin {plugin}: unknown parameter '{key}'; known are: {}", .known.join(", "))]
    UnknownKey { plugin: String, key: String, known: &'static [&'static str] },
    #[error("plugin {plugin}: parameter '{key}' is given twice")]
    Twice { plugin: String, key: &'static str },
    #[error("plugin {plugin}: parameter '{key}' is missing; known are: {}", .known.join(", "))]
    Missing { plugin: String, key: &'static str, known: &'static [&'static str] },
    #[error("plugin file: give one of 'file' and 'dir', not both")]
    FileAndDirectory,
    #[error("plugin {plugin}: {key}={value} is not known; known are: {}", .known.join(", "))]
    Word { plugin: String, key: &'static str, value: String, known: &'static [&'static str] },
    #[error("plugin {plugin}: '{value}' is not a size")]
    Size { plugin: String, value: String, source: SizeError },
    #[error(transparent)]
    File(FileError),
    #[error("cannot serve the directory {}", .path.display())]
    Directory { path: PathBuf, source: io::Error },
}

fn built_in() -> String {
    BUILT_IN.map(|(name, _)| name).join(", ")
}

/// The exports of `plugin` with the parameters `params`, in which a value without a key is the
/// plugin's main parameter. With `read_only`, files are opened for reading alone.
pub fn build(
    plugin: &str,
    params: &[(Option<String>, String)],
    read_only: bool,
) -> Result<Arc<dyn Exports>, BuildError> {
    let Some(&(_, kind)) = BUILT_IN.iter().find(|(name, _)| *name == plugin) else {
        let plugin = plugin.to_owned();
        return Err(if NOT_BUILT_IN.contains(&plugin.as_str()) {
            BuildError::NotBuiltIn { plugin }
        } else {
            BuildError::UnknownPlugin { plugin }
        });
    };
    // The first key is the one that a bare value is for.
    let known: &[&str] = match kind {
        Plugin::File => &["file", "dir", "cache", "fadvise"],
        Plugin::Memory => &["size", "allocator"],
        Plugin::Full | Plugin::Null | Plugin::Pattern => &["size"],
    };
    let params = Params::sort(plugin, known, params)?;
    Ok(match kind {
        Plugin::File => file(&params, read_only)?,
        Plugin::Full => Arc::new(Single(Arc::new(FullDisk::new(params.needed_size()?)))),
        Plugin::Memory => {
            params.word("allocator", &["sparse"], &[()])?;
            Arc::new(Single(Arc::new(MemoryDisk::new(params.needed_size()?))))
        }
        Plugin::Null => Arc::new(Single(Arc::new(NullDisk::new(params.size()?.unwrap_or(0))))),
        Plugin::Pattern => Arc::new(Single(Arc::new(PatternDisk::new(params.needed_size()?)))),
    })
}

fn file(params: &Params<'_>, read_only: bool) -> Result<Arc<dyn Exports>, BuildError> {
    let cache = params.word("cache", &["default", "none"], &[Cache::Default, Cache::None])?;
    let advice = params.word(
        "fadvise",
        &["normal", "random", "sequential"],
        &[Advice::Normal, Advice::Random, Advice::Sequential],
    )?;
    let options =
        Options { read_only, cache: cache.unwrap_or_default(), advice: advice.unwrap_or_default() };
    match (params.value("file"), params.value("dir")) {
        (Some(path), None) => {
            let disk = FileDisk::open(Path::new(path), options).map_err(BuildError::File)?;
            Ok(Arc::new(Single(Arc::new(disk))))
        }
        (None, Some(path)) => {
            let directory = Directory::open(Path::new(path), options)
                .map_err(|source| BuildError::Directory { path: path.into(), source })?;
            Ok(Arc::new(directory))
        }
        (Some(_), Some(_)) => Err(BuildError::FileAndDirectory),
        (None, None) => Err(params.missing("file")),
    }
}

/// The parameters of one plugin, each known and given once.
struct Params<'a> {
    plugin: &'a str,
    known: &'static [&'static str],
    values: Vec<(&'static str, &'a str)>,
}

impl<'a> Params<'a> {
    fn sort(
        plugin: &'a str,
        known: &'static [&'static str],
        given: &'a [(Option<String>, String)],
    ) -> Result<Self, BuildError> {
        let mut params = Self { plugin, known, values: Vec::new() };
        for (key, value) in given {
            let wanted = key.as_deref().unwrap_or(known[0]);
            let Some(&key) = known.iter().find(|&&key| key == wanted) else {
                let (plugin, key) = (plugin.to_owned(), wanted.to_owned());
                return Err(BuildError::UnknownKey { plugin, key, known });
            };
            if params.value(key).is_some() {
                return Err(BuildError::Twice { plugin: plugin.to_owned(), key });
            }
            params.values.push((key, value));
        }
        Ok(params)
    }

    fn value(&self, key: &str) -> Option<&'a str> {
        self.values.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    fn missing(&self, key: &'static str) -> BuildError {
        BuildError::Missing { plugin: self.plugin.to_owned(), key, known: self.known }
    }

    fn size(&self) -> Result<Option<u64>, BuildError> {
        let Some(value) = self.value("size") else { return Ok(None) };
        parse_size(value).map(Some).map_err(|source| BuildError::Size {
            plugin: self.plugin.to_owned(),
            value: value.to_owned(),
            source,
        })
    }

    fn needed_size(&self) -> Result<u64, BuildError> {
        self.size()?.ok_or_else(|| self.missing("size"))
    }

    /// What the word given for `key` stands for: `meanings` has one for each of `words`.
    fn word<T: Copy>(
        &self,
        key: &'static str,
        words: &'static [&'static str],
        meanings: &[T],
    ) -> Result<Option<T>, BuildError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let meaning = words.iter().zip(meanings).find(|(word, _)| **word == value);
        let meaning = meaning.ok_or_else(|| BuildError::Word {
            plugin: self.plugin.to_owned(),
            key,
            value: value.to_owned(),
            known: words,
        })?;
        Ok(Some(*meaning.1))
    }
}

#[cfg(test)]
mod tests;
