//! The view of a machine: its files below a root directory, and the answers to a few probes.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::probes::Probes;

/// Bytes that are read of a file, at most; of a longer one the end. A list of modules has up to 1 MiB.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// A machine: the one that this process runs on, or a recorded one.
#[derive(Debug)]
pub(crate) struct Machine {
    root: PathBuf,
    pub(crate) probes: Probes,
}

impl Machine {
    /// The machine that this process runs on.
    pub(crate) fn here(probes: Probes) -> Self {
        Self::new("/", probes)
    }

    pub(crate) fn new(root: impl Into<PathBuf>, probes: Probes) -> Self {
        Self { root: root.into(), probes }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        read(&self.path(path)).ok()
    }

    /// The value in a file that has one, without white space around it.
    pub(crate) fn value(&self, path: &str) -> Option<String> {
        self.read(path).map(|text| text.trim().to_owned())
    }

    /// The kernel's log; empty where it cannot be read.
    pub(crate) fn kernel_log(&self) -> &str {
        if self.probes.log.is_empty() { &self.probes.journal } else { &self.probes.log }
    }

    /// The names in a directory, sorted; none where it cannot be read.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The paths of all files in some directories, in their order.
    pub(crate) fn paths_in(&self, directories: &[&str]) -> Vec<String> {
        let paths = directories.iter().flat_map(|directory| {
            self.list(directory).into_iter().map(move |name| format!("{directory}/{name}"))
        });
        paths.collect()
    }

    /// Where a symbolic link points.
    pub(crate) fn link(&self, path: &str) -> Option<String> {
        Some(fs::read_link(self.path(path)).ok()?.to_string_lossy().into_owned())
    }

    /// The kernel's release (`uname -r`). The file is hidden in a service with ProcSubset=pid.
    pub(crate) fn release(&self) -> String {
        let told = || self.probes.release.clone();
        self.value("/proc/sys/kernel/osrelease").unwrap_or_else(told)
    }

    /// Whether the kernel has AF_VSOCK now, even if this process may not use it.
    pub(crate) fn knows_vsock(&self) -> bool {
        let protocols = self.read("/proc/net/protocols").unwrap_or_default();
        protocols.lines().any(|line| line.split_whitespace().next() == Some("AF_VSOCK"))
    }

    /// The first two numbers of the kernel's version.
    pub(crate) fn version(&self) -> Option<(u32, u32)> {
        let release = self.release();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// Reads a whole file, or the last [`MOST_BYTES`] of a longer one.
fn read(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() && meta.len() > MOST_BYTES {
        file.seek(SeekFrom::End(-MOST_BYTES.cast_signed()))?;
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
