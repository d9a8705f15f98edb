//! What a file or block device is stored on, according to the kernel: a loop device on its file, a partition on
//! its disk, a mapped device on the devices below it, a file on the device of its filesystem. `Plan::target` asks,
//! so that a copy never writes to what it reads from.
//!
//! What cannot be found out counts as unknown, and does not stop a copy.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::OFlag,
    sys::stat::{major, minor},
};

use super::word::Word;
use crate::{attach::attached, sys};

/// Something that stores bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    /// A regular file: the number of its filesystem, and its inode.
    File(u64, u64),
    /// A block device: its number.
    Device(u64),
}

impl Node {
    /// `None` for a file of another kind, which stores nothing.
    pub(super) fn of(facts: &fs::Metadata) -> Option<Self> {
        let kind = facts.file_type();
        if kind.is_file() {
            Some(Self::File(facts.dev(), facts.ino()))
        } else if kind.is_block_device() {
            Some(Self::Device(facts.rdev()))
        } else {
            None
        }
    }
}

/// How far down the stack to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Only what holds the same bytes, so that writing one writes a part of the other.
    Bytes,
    /// Also the devices of filesystems: writing to one destroys the files.
    Filesystems,
}

/// How a source and a destination overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlap {
    Same,
    /// The source is stored on the destination.
    SourceOverTarget,
    /// The destination is stored on the source.
    TargetOverSource,
}

/// The kernel's view: /sys, /proc and /dev below a directory, so that tests can provide their own.
#[derive(Debug)]
pub(super) struct System {
    root: PathBuf,
}

impl System {
    pub(super) fn here() -> Self {
        Self { root: "/".into() }
    }

    /// Whether writing to `target` would change what is read from `source`.
    pub(super) fn overlap(&self, source: &File, target: &File) -> Option<Overlap> {
        let node = |file: &File| file.metadata().ok().as_ref().and_then(Node::of);
        let (from, to) = (node(source)?, node(target)?);
        if from == to {
            Some(Overlap::Same)
        } else if self.made_of(source, Depth::Filesystems).contains(&to) {
            Some(Overlap::SourceOverTarget)
        } else if self.made_of(target, Depth::Bytes).contains(&from) {
            // A file on the source's own filesystem is not reported: a device that is mounted for writing changes
            // in any case.
            Some(Overlap::TargetOverSource)
        } else {
            None
        }
    }

    /// Whether `file` is stored on a device that `attach` has made of this export.
    pub(super) fn is_over_export(&self, file: &File, depth: Depth, export: &Word) -> bool {
        let nodes = self.made_of(file, depth);
        let any = nodes.iter().any(|node| matches!(node, Node::Device(_)));
        any && contains_export(&nodes, &exports(), export)
    }

    /// Whether the process `server` has `file` open, or something that holds its bytes. Then the server serves
    /// what the copy would write. What cannot be seen counts as unknown.
    pub(super) fn serves(&self, server: i32, file: &File) -> bool {
        let nodes = self.made_of(file, Depth::Bytes);
        let Ok(open) = fs::read_dir(self.root.join(format!("proc/{server}/fd"))) else {
            return false;
        };
        let open = open.flatten().filter_map(|entry| fs::metadata(entry.path()).ok());
        open.filter_map(|facts| Node::of(&facts)).any(|node| nodes.contains(&node))
    }

    /// `file` and everything that it is stored on.
    pub(super) fn made_of(&self, file: &File, depth: Depth) -> BTreeSet<Node> {
        let mut found = BTreeSet::new();
        let Some(first) = file.metadata().ok().as_ref().and_then(Node::of) else { return found };
        let opened = file.try_clone().ok();
        let mut left = vec![(first, opened)];
        while let Some((node, file)) = left.pop() {
            if !found.insert(node) {
                continue;
            }
            match node {
                Node::Device(number) => self.below_device(number, &mut left),
                Node::File(..) if depth == Depth::Bytes => {}
                Node::File(filesystem, _) => {
                    let device = self.filesystem_is_on(filesystem, file.as_ref());
                    left.extend(device.map(|number| (Node::Device(number), None)));
                }
            }
        }
        found
    }

    /// Adds what holds the bytes of a block device.
    fn below_device(&self, number: u64, left: &mut Vec<(Node, Option<File>)>) {
        let name = format!("sys/dev/block/{}:{}", major(number), minor(number));
        // The name is a client. The device's parent directory is that of the client's target.
        let Ok(device) = self.root.join(name).canonicalize() else { return };
        let mut numbers = Vec::new();
        if device.join("partition").exists() {
            numbers.extend(device.parent().and_then(number_in));
        }
        for below in fs::read_dir(device.join("slaves")).into_iter().flatten().flatten() {
            numbers.extend(number_in(&below.path()));
        }
        left.extend(numbers.into_iter().map(|number| (Node::Device(number), None)));
        let text = |name: &str| fs::read_to_string(device.join(name)).ok();
        if let Some(path) = text("loop/backing_file") {
            let named = at(Path::new(path.trim_end_matches('\n')));
            // The path may be gone, or lead to another file in this process's mount namespace. The driver knows
            // the file itself.
            let told = self.loop_file(&device, number);
            match told {
                Some(node) if named.as_ref().is_none_or(|(other, _)| *other != node) => {
                    left.push((node, None));
                    // For a block device the driver reports the number of the device's name.
                    left.extend(named.filter(|(other, _)| matches!(other, Node::Device(_))));
                }
                _ => left.extend(named),
            }
        }
        // zram's backing device; the file says "none" if there is none.
        if let Some(path) = text("backing_dev") {
            left.extend(at(Path::new(path.trim_end_matches('\n'))));
        }
    }

    /// The file of a loop device, as its driver reports it.
    fn loop_file(&self, device: &Path, number: u64) -> Option<Node> {
        let name = device.file_name()?;
        let file = File::open(self.root.join("dev").join(name)).ok()?;
        let is_it = file.metadata().ok().as_ref().and_then(Node::of) == Some(Node::Device(number));
        let (filesystem, inode) = is_it.then(|| sys::loop_file(&file).ok()).flatten()?;
        Some(Node::File(filesystem, inode))
    }

    /// The block device of a filesystem. Some filesystems have a number of their own; their device is in the list
    /// of mounts.
    fn filesystem_is_on(&self, filesystem: u64, file: Option<&File>) -> Option<u64> {
        if major(filesystem) != 0 {
            return Some(filesystem);
        }
        let facts = self.root.join(format!("proc/self/fdinfo/{}", file?.as_raw_fd()));
        let facts = fs::read_to_string(facts).ok()?;
        let mount = facts.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        let mounts = fs::read_to_string(self.root.join("proc/self/mountinfo")).ok()?;
        let line = mounts.lines().find(|line| line.split(' ').next() == Some(mount))?;
        // "ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [MORE...] - TYPE SOURCE OPTIONS" (proc(5)).
        let source = line.split_once(" - ")?.1.split(' ').nth(1)?;
        match at(Path::new(&plain(source)))? {
            (Node::Device(number), _) => Some(number),
            (Node::File(..), _) => None,
        }
    }
}

/// The attached devices and the URIs of their exports.
fn exports() -> Vec<(Node, String)> {
    let all = attached().into_iter().filter_map(|disk| {
        let node = fs::metadata(disk.device.to_string()).ok().as_ref().and_then(Node::of)?;
        Some((node, disk.state.get("uri")?.as_str()?.to_owned()))
    });
    all.collect()
}

/// URIs are compared after parsing, so the way they are written does not matter.
fn contains_export(nodes: &BTreeSet<Node>, exports: &[(Node, String)], export: &Word) -> bool {
    let is_export = |uri: &str| uri.parse().is_ok_and(|word: Word| word == *export);
    exports.iter().any(|(node, uri)| nodes.contains(node) && is_export(uri))
}

/// The device number from the directory of a device.
fn number_in(device: &Path) -> Option<u64> {
    let text = fs::read_to_string(device.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The node at a path. Nothing is read from it, and no permission on it is needed.
fn at(path: &Path) -> Option<(Node, Option<File>)> {
    let flags = (OFlag::O_PATH | OFlag::O_CLOEXEC).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let node = file.metadata().ok().as_ref().and_then(Node::of)?;
    Some((node, Some(file)))
}

/// Replaces the octal escapes of mountinfo.
fn plain(text: &str) -> String {
    let mut parts = text.split('\\');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => all + &char::from(code).to_string() + part.get(3..).unwrap_or_default(),
            None => all + "\\" + part,
        }
    })
}

#[cfg(test)]
mod tests;
