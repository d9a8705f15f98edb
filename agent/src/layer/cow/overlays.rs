//! Which overlay a client gets: that of the disk that it has opened.
//!
//! An overlay is kept by the name that stands for all names of a disk, for as long as the agent runs, so that a
//! client which comes back finds what was written. It ends with the disk that it covers: when another disk has
//! the name now, or the disk was one connection's alone.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    super::{refuse, window},
    overlay::Overlay,
};
use crate::exports::OpenError;
use disk::{Disk, Identity, MemoryBudget};

/// Overlays that are kept. Each has a descriptor and room on the host's disk, and one in which something was written
/// cannot be given up.
const MOST: usize = 4096;

#[derive(Debug)]
pub(super) struct Overlays {
    /// Bytes of a block.
    block: u64,
    /// Of all overlays that this layer makes: one that nobody has written to can be made anew, and is the same.
    identity: Identity,
    /// For their maps.
    budget: Arc<MemoryBudget>,
    kept: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    /// Of the disk below; `None` if that cannot be known.
    below: Option<Identity>,
    overlay: Arc<Overlay>,
}

impl Kept {
    /// Nobody has it. Nobody can get it either, while the table is locked.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.overlay) == 1
    }

    /// What is known of the disks does not say that they are two.
    fn is_of(&self, below: Option<Identity>) -> bool {
        self.below.zip(below).is_none_or(|(one, other)| one == other)
    }
}

impl Overlays {
    pub(super) fn new(block: u64, budget: Arc<MemoryBudget>) -> Self {
        Self { block, identity: Identity::fresh(), budget, kept: Mutex::default() }
    }

    /// The overlay for a disk that was opened by `name`. Blocks.
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
                    "filter cow: another disk has this name now; what was written over the last one is gone"
                );
            }
            _ => {}
        }
        // Those who still have the last one keep it.
        kept.remove(name);
        kept.retain(|_, kept| !(kept.is_idle() && kept.overlay.is_blank()));
        if kept.len() >= MOST {
            return Err(refuse(format!(
                "filter cow: {MOST} overlays are kept already; start the agent again, which drops them"
            )));
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
        overlay.map(Arc::new).map_err(|error| {
            let folder = folder.display();
            refuse(format!("filter cow: no overlay can be made in {folder} (TMPDIR): {error}"))
        })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.lock().unwrap().len()
    }
}

/// Fits an overlay to the size that its disk has now.
fn resize(kept: &mut Kept, below: &dyn Disk) -> Result<(), OpenError> {
    let (old, new) = (kept.overlay.size(), below.info().size);
    let Some(overlay) = Arc::get_mut(&mut kept.overlay) else {
        return Err(refuse(format!(
            "filter cow: the disk has {new} bytes now, and there are clients who have it with {old}; \
             wait until they have left"
        )));
    };
    overlay.resize(new, |at, len| window::read(below, at, len)).map_err(|error| {
        refuse(format!("filter cow: the overlay cannot be made to fit the disk: {error}"))
    })
}
