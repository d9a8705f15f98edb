//! From nbdkit's words (a plugin's name and its parameters) to the exports that they mean.
//!
//! `plan` calls `build` once, at start. Files are opened here, so that what is wrong with them shows
//! before a client comes.

use std::{path::Path, sync::Arc};

use crate::{
    disk::{
        Disk, FileDisk, FullDisk, MemoryDisk, NullDisk, PatternDisk,
        file::{Advice, Cache, Options},
    },
    exports::{Directory, Single},
    recipe::{BuildError, Context, Key, Kind, Params, Stack, Word},
};

/// A plugin that is built in.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    pub keys: &'static [Key],
    /// The key that a value without one is for.
    pub main: Option<&'static str>,
    build: fn(&Params<'_>, &mut Context<'_>) -> Result<Stack, BuildError>,
}

const SIZE: Key = Key::once("size", "SIZE", "Size of the disk");

/// In the order of their names.
pub const BUILT_IN: &[Entry] = &[
    Entry {
        name: "file",
        about: "A file, a block device, or a directory of them",
        keys: &[
            Key::once("file", "PATH", "The file or block device to serve"),
            Key::once("dir", "PATH", "Serve every file in this directory, each as an export"),
            Key::once("cache", "default|none", "none: past the page cache (O_DIRECT)"),
            Key::once("fadvise", "normal|random|sequential", "How the file will be read"),
        ],
        main: Some("file"),
        build: file,
    },
    Entry {
        name: "full",
        about: "A disk of zeroes that has no space for anything else",
        keys: &[SIZE],
        main: Some("size"),
        build: |params, _| Ok(single(FullDisk::new(params.needed_size("size")?))),
    },
    Entry {
        name: "memory",
        about: "Memory; costs what is written, trim gives it back",
        keys: &[SIZE, Key::once("allocator", "sparse", "How memory is taken: as it is written")],
        main: Some("size"),
        build: |params, _| {
            params.choice("allocator", &["sparse"], &[()])?;
            Ok(single(MemoryDisk::new(params.needed_size("size")?)))
        },
    },
    Entry {
        name: "null",
        about: "Reads as zeroes and forgets what is written",
        keys: &[SIZE],
        main: Some("size"),
        build: |params, _| Ok(single(NullDisk::new(params.size("size")?.unwrap_or(0)))),
    },
    Entry {
        name: "pattern",
        about: "Each 8 bytes are their own offset, big-endian",
        keys: &[SIZE],
        main: Some("size"),
        build: |params, _| Ok(single(PatternDisk::new(params.needed_size("size")?))),
    },
];

/// nbdkit's other plugins, so that who knows them is told plainly.
const NOT_BUILT_IN: &[&str] = &[
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

/// One disk under every name.
fn single(disk: impl Disk + 'static) -> Stack {
    Stack::new(Single(Arc::new(disk)))
}

/// The built-in plugin of that name.
pub fn find(name: &str) -> Result<&'static Entry, BuildError> {
    BUILT_IN.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let built_in = BUILT_IN.iter().map(|entry| entry.name).collect();
        let (kind, name) = (Kind::Plugin, name.to_owned());
        if NOT_BUILT_IN.contains(&name.as_str()) {
            BuildError::NotBuiltIn { kind, name, built_in }
        } else {
            BuildError::Unknown { kind, name, built_in }
        }
    })
}

impl Entry {
    /// What it serves, by the words that no filter has taken.
    pub fn build(&self, words: &[&Word], context: &mut Context<'_>) -> Result<Stack, BuildError> {
        let params = Params::of_plugin(self.name, self.keys, self.main, words)?;
        (self.build)(&params, context)
    }
}

fn file(params: &Params<'_>, context: &mut Context<'_>) -> Result<Stack, BuildError> {
    let cache = params.choice("cache", &["default", "none"], &[Cache::Default, Cache::None])?;
    let advice = params.choice(
        "fadvise",
        &["normal", "random", "sequential"],
        &[Advice::Normal, Advice::Random, Advice::Sequential],
    )?;
    let options = Options {
        read_only: context.read_only,
        cache: cache.unwrap_or_default(),
        advice: advice.unwrap_or_default(),
    };
    match (params.value("file"), params.value("dir")) {
        (Some(path), None) => Ok(single(FileDisk::open(Path::new(path), options)?)),
        (None, Some(path)) => {
            let directory = Directory::open(Path::new(path), options)
                .map_err(|source| BuildError::Directory { path: path.into(), source })?;
            Ok(Stack::new(directory))
        }
        (Some(_), Some(_)) => Err(BuildError::FileAndDirectory),
        (None, None) => Err(params.missing("file").into()),
    }
}

#[cfg(test)]
mod tests;
