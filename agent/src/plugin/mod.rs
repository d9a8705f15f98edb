//! Plugins: each builds exports from nbdkit's words, its name and its parameters.
//!
//! `plan` calls `build` once, at start. Files are opened here once, so that errors show before a client comes.

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

use thiserror::Error;

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
pub(crate) struct Entry {
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    pub keys: &'static [Key],
    /// The key for a value without a key.
    pub main: Option<&'static str>,
    build: fn(&Params<'_>, &mut Context<'_>) -> Result<Stack, BuildError>,
}

#[derive(Debug, Error)]
enum PluginError {
    #[error("plugin ones: there is no memory")]
    NoMemory,
    #[error("plugin split: the files are more than 2^63 - 1 bytes together")]
    TooLong,
}

impl From<PluginError> for BuildError {
    fn from(error: PluginError) -> Self {
        Self::Own(Box::new(error))
    }
}

const SIZE: Key = Key::once("size", "SIZE", "Size of the disk");

/// In the order of their names.
pub(crate) const BUILT_IN: &[Entry] = &[
    data::ENTRY,
    Entry {
        name: "file",
        about: "A file, a block device, or a directory of them",
        keys: &[
            Key::once("file", "PATH", "The file or block device to serve"),
            Key::once("dir", "PATH", "Serve every file in this directory, each as an export"),
            Key::once("cache", "default|none", "none: bypass the page cache (O_DIRECT)"),
            Key::once("fadvise", "normal|random|sequential", "The expected pattern of reads"),
        ],
        main: Some("file"),
        build: file,
    },
    Entry {
        name: "full",
        about: "A disk of zeroes; writes fail for lack of space",
        keys: &[SIZE],
        main: Some("size"),
        build: |params, _| Ok(single(FullDisk::new(params.needed_size("size")?))),
    },
    Entry {
        name: "memory",
        about: "Memory; only written blocks take memory, and trim frees it",
        keys: &[SIZE, Key::once("allocator", "sparse", "Memory is allocated as it is written")],
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
        about: "Reads as zeroes and discards writes",
        keys: &[SIZE],
        main: Some("size"),
        build: |params, _| Ok(single(NullDisk::new(params.size("size")?.unwrap_or(0)))),
    },
    ondemand::ENTRY,
    Entry {
        name: "ones",
        about: "Reads as one repeated byte and discards writes",
        keys: &[SIZE, Key::once("byte", "N", "The byte [default: 0xff]")],
        main: Some("size"),
        build: ones,
    },
    Entry {
        name: "pattern",
        about: "Each 8 bytes are their offset, big-endian",
        keys: &[SIZE],
        main: Some("size"),
        build: |params, _| Ok(single(PatternDisk::new(params.needed_size("size")?))),
    },
    Entry {
        name: "random",
        about: "Random bytes from a seed; a write must have the same bytes",
        keys: &[
            SIZE,
            Key::once("seed", "N", "A number of 32 bits; the same seed gives the same bytes"),
        ],
        main: Some("size"),
        build: |params, _| {
            let seed = params.parsed("seed", "a number of 32 bits", parse_number)?;
            let seed = seed.unwrap_or_else(random_seed);
            Ok(single(RandomDisk::new(params.needed_size("size")?, seed)))
        },
    },
    Entry {
        name: "split",
        about: "Files one after the other, as one disk",
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
        // A read-only disk without bytes.
        build: |_, _| Ok(single(PatternDisk::new(0))),
    },
];

/// nbdkit's other plugins, so that the error for one of them says that it is known.
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
///
/// # Errors
/// `BuildError::Unknown`, or `BuildError::NotBuiltIn` if nbdkit has a plugin of that name.
pub(crate) fn find(name: &str) -> Result<&'static Entry, BuildError> {
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
    /// Builds the stack of the plugin from the words that no filter has taken.
    ///
    /// # Errors
    /// If a parameter is wrong, or if what the plugin serves cannot be opened.
    pub(crate) fn build(
        &self,
        words: &[&Word],
        context: &mut Context<'_>,
    ) -> Result<Stack, BuildError> {
        let params = Params::of_plugin(self.name, self.keys, self.main, words)?;
        (self.build)(&params, context)
    }
}

/// A seed that differs each time.
fn random_seed() -> u32 {
    let bytes = RandomState::new().build_hasher().finish().to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn ones(params: &Params<'_>, _: &mut Context<'_>) -> Result<Stack, BuildError> {
    let byte = params.parsed("byte", "a byte (0 to 255)", parse_number)?.unwrap_or(0xff);
    let disk = OnesDisk::new(params.size("size")?.unwrap_or(0), byte);
    disk.map(single).ok_or_else(|| PluginError::NoMemory.into())
}

fn split(params: &Params<'_>, context: &mut Context<'_>) -> Result<Stack, BuildError> {
    let options = Options { read_only: context.read_only, ..Options::default() };
    let paths: Vec<_> = params.values("file").map(Path::new).collect();
    if paths.is_empty() {
        return Err(params.missing("file").into());
    }
    let files = Files::check(&paths, Layout::Joined, options, context.changes_user)?;
    files.open_now().map_err(|_| PluginError::TooLong)?;
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
