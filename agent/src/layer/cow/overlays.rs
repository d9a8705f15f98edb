//! The overlays of all disks, by name.
//!
//! An overlay is kept under the canonical name of its disk for as long as the agent runs, so that a client which comes
//! back finds its writes. The overlay ends with its disk: when another disk has the name, or at once where the disk
//! belonged to one connection.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use thiserror::Error;

use super::{
    super::{refuse, window},
    overlay::Overlay,
};
use crate::exports::OpenError;
use disk::{Disk, DiskError, Identity, MemoryBudget};

/// Most overlays that are kept. Each has a descriptor and takes space on the host's disk, and an overlay with writes
/// cannot be dropped.
const MOST: usize = 4096;

/// Why a client gets no overlay. The cause is part of the message, because the log shows one cause of an error.
#[derive(Debug, Error)]
enum OverlayError {
    #[error(
        "filter cow: {MOST} overlays are kept already; start the agent again, which drops them"
    )]
    TooMany,
    #[error("filter cow: no overlay can be made in {} (TMPDIR): {error}", .folder.display())]
    Make { folder: PathBuf, error: io::Error },
    #[error(
        "filter cow: the disk has {new} bytes now, and clients have it open with {old}; \
         wait until they have left"
    )]
    InUse { old: u64, new: u64 },
    #[error("filter cow: the overlay cannot be made to fit the disk: {error}")]
    Resize { error: DiskError },
}

#[derive(Debug)]
pub(super) struct Overlays {
    /// Block size, in bytes.
    block: u64,
    /// The identity of all overlays of this layer: an overlay without writes can be dropped and made again.
    identity: Identity,
    /// The budget for the maps.
    budget: Arc<MemoryBudget>,
    kept: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    /// The identity of the disk below; `None` if it is unknown.
    below: Option<Identity>,
    overlay: Arc<Overlay>,
}

impl Kept {
    /// Whether no client has the overlay. While the table is locked, no client can get it.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.overlay) == 1
    }

    /// Whether the disk below may be the same disk. An unknown identity may be any disk.
    fn is_of(&self, below: Option<Identity>) -> bool {
        self.below.zip(below).is_none_or(|(one, other)| one == other)
    }
}

impl Overlays {
    pub(super) fn new(block: u64, budget: Arc<MemoryBudget>) -> Self {
        Self { block, identity: Identity::fresh(), budget, kept: Mutex::default() }
    }

    /// The overlay for a disk that was opened by `name`. This may block.
    pub(super) fn of(&self, name: &str, below: &dyn Disk) -> Result<Arc<Overlay>, OpenError> {
        let info = below.info();
        if info.ephemeral {
            return self.make(info.size);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.get_mut(name) {
            Some(found) if found.is_of(info.identity) => {
                if found.overlay.size() != info.size {
                    resize(found, below)?;
                }
                return Ok(Arc::clone(&found.overlay));
            }
            Some(found) if !found.overlay.is_blank() => {
                tracing::warn!(
                    export = name,
                    "filter cow: another disk has this name now; the writes to the previous disk are dropped"
                );
            }
            _ => {}
        }
        // Clients that still have the old overlay keep it.
        kept.remove(name);
        kept.retain(|_, kept| !(kept.is_idle() && kept.overlay.is_blank()));
        if kept.len() >= MOST {
            return Err(refuse(OverlayError::TooMany));
        }
        let overlay = self.make(info.size)?;
        let new = Kept { below: info.identity, overlay: Arc::clone(&overlay) };
        kept.insert(name.to_owned(), new);
        Ok(overlay)
    }

    fn make(&self, size: u64) -> Result<Arc<Overlay>, OpenError> {
        let folder = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        let folder = Path::new(&folder);
        let overlay =
            Overlay::new(folder, size, self.block, self.identity, Arc::clone(&self.budget));
        overlay
            .map(Arc::new)
            .map_err(|error| refuse(OverlayError::Make { folder: folder.into(), error }))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.lock().unwrap().len()
    }
}

/// Fits an overlay to the current size of its disk.
fn resize(kept: &mut Kept, below: &dyn Disk) -> Result<(), OpenError> {
    let (old, new) = (kept.overlay.size(), below.info().size);
    let Some(overlay) = Arc::get_mut(&mut kept.overlay) else {
        return Err(refuse(OverlayError::InUse { old, new }));
    };
    let resized = overlay.resize(new, |at, len| window::read(below, at, len));
    resized.map_err(|error| refuse(OverlayError::Resize { error }))
}
