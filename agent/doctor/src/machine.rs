//! The view of a machine: its files below a root, and what a few probes said.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::probes::Probes;

/// Of a file more than this is not read; of a log, its end. A list of modules has up to 1 MiB.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// A machine: this one, or a recorded one.
#[derive(Debug)]
pub(crate) struct Machine {
    root: PathBuf,
    pub(crate) probes: Probes,
}

impl Machine {
    /// This machine, with what the probes said.
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

    /// A file of one value, without the blanks at its ends.
    pub(crate) fn value(&self, path: &str) -> Option<String> {
        self.read(path).map(|text| text.trim().to_owned())
    }

    /// The kernel's log, where it may be read.
    pub(crate) fn kernel_log(&self) -> &str {
        if self.probes.log.is_empty() { &self.probes.journal } else { &self.probes.log }
    }

    /// Names in a directory, sorted.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub(crate) fn link(&self, path: &str) -> Option<String> {
        Some(fs::read_link(self.path(path)).ok()?.to_string_lossy().into_owned())
    }

    /// `uname -r`. (The file is hidden in a service with ProcSubset=pid.)
    pub(crate) fn release(&self) -> String {
        let told = || self.probes.release.clone();
        self.value("/proc/sys/kernel/osrelease").unwrap_or_else(told)
    }

    /// Whether the kernel has the address family now, whatever this process may do with it.
    pub(crate) fn knows_vsock(&self) -> bool {
        let protocols = self.read("/proc/net/protocols").unwrap_or_default();
        protocols.lines().any(|line| line.split_whitespace().next() == Some("AF_VSOCK"))
    }

    /// The kernel's version, as far as it compares.
    pub(crate) fn version(&self) -> Option<(u32, u32)> {
        let release = self.release();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// The whole of a short file, the end of a long one.
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
