//! From nbdkit's words (a plugin's name and its parameters) to the exports that they mean.
//!
//! `plan` calls `build` once, at start. Files are opened here, so that what is wrong with them shows
//! before a client comes.

mod data;
mod made;
mod nbd;
mod ondemand;
mod tmpdisk;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::Path,
    sync::Arc,
};

use crate::{
    exports::{Directory, Files, Layout, Single},
    params::{Key, Kind, Params, Word},
    stack::{BuildError, Context, Stack},
    units::parse_number,
};
use disk::{
    Disk, FullDisk, MemoryDisk, NullDisk, OnesDisk, PatternDisk, RandomDisk,
    file::{Advice, Cache, Options},
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
    data::ENTRY,
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
        build: |params, context| {
            params.choice("allocator", &["sparse"], &[()])?;
            let size = params.needed_size("size")?;
            Ok(single(MemoryDisk::within(size, Arc::clone(&context.memory))))
        },
    },
    nbd::ENTRY,
    Entry {
        name: "null",
        about: "Reads as zeroes and forgets what is written",
        keys: &[SIZE],
        main: Some("size"),
        build: |params, _| Ok(single(NullDisk::new(params.size("size")?.unwrap_or(0)))),
    },
    ondemand::ENTRY,
    Entry {
        name: "ones",
        about: "Reads as one byte over and over, and forgets what is written",
        keys: &[SIZE, Key::once("byte", "N", "The byte [default: 0xff]")],
        main: Some("size"),
        build: ones,
    },
    Entry {
        name: "pattern",
        about: "Each 8 bytes are their own offset, big-endian",
        keys: &[SIZE],
        main: Some("size"),
        build: |params, _| Ok(single(PatternDisk::new(params.needed_size("size")?))),
    },
    Entry {
        name: "random",
        about: "Bytes that follow from a seed; what is written must be the same bytes",
        keys: &[SIZE, Key::once("seed", "N", "Of 32 bits; the same seed, the same bytes")],
        main: Some("size"),
        build: |params, _| {
            let seed = params.parsed("seed", "a number of 32 bits", parse_number)?;
            let seed = seed.unwrap_or_else(by_chance);
            Ok(single(RandomDisk::new(params.needed_size("size")?, seed)))
        },
    },
    Entry {
        name: "split",
        about: "Files one behind the other, as one disk",
        keys: &[Key::many("file", "PATH", "The next file")],
        main: Some("file"),
        build: split,
    },
    tmpdisk::ENTRY,
    Entry {
        name: "zero",
        about: "A disk of no bytes",
        keys: &[],
        main: None,
        // Of any read-only disk nothing is left.
        build: |_, _| Ok(single(PatternDisk::new(0))),
    },
];

/// nbdkit's other plugins, so that who knows them is told plainly.
const NOT_BUILT_IN: &[&str] = &[
    "blkio",
    "cc",
    "cdi",
    "curl",
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
    "ocaml",
    "partitioning",
    "perl",
    "python",
    "ruby",
    "rust",
    "S3",
    "sh",
    "sparse-random",
    "ssh",
    "streaming",
    "tar",
    "tcl",
    "torrent",
    "vddk",
    "xz",
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

/// Another one each time.
fn by_chance() -> u32 {
    let bytes = RandomState::new().build_hasher().finish().to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn ones(params: &Params<'_>, _: &mut Context<'_>) -> Result<Stack, BuildError> {
    let byte = params.parsed("byte", "a byte (0 to 255)", parse_number)?.unwrap_or(0xff);
    let disk = OnesDisk::new(params.size("size")?.unwrap_or(0), byte);
    disk.map(single).ok_or_else(|| BuildError::Own("plugin ones: there is no memory".into()))
}

fn split(params: &Params<'_>, context: &mut Context<'_>) -> Result<Stack, BuildError> {
    let options = Options { read_only: context.read_only, ..Options::default() };
    let paths: Vec<_> = params.values("file").map(Path::new).collect();
    if paths.is_empty() {
        return Err(params.missing("file").into());
    }
    let files = Files::check(&paths, Layout::Joined, options, context.changes_user)?;
    files.open_now().map_err(|_| {
        BuildError::Own("plugin split: the files are more than 2^63 - 1 bytes together".into())
    })?;
    Ok(Stack::new(files))
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
        (Some(path), None) => {
            let paths = [Path::new(path)];
            let files = Files::check(&paths, Layout::Whole, options, context.changes_user)?;
            Ok(Stack::new(files))
        }
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
