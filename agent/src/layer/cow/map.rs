//! The map of an overlay: where the bytes of each block are.
//!
//! Its memory is taken for groups of some thousand blocks, and charged to the budget of all memory disks, because a
//! client can touch any number of groups on a huge disk.

use std::{collections::HashMap, io, sync::Arc};

use thiserror::Error;

use disk::{DiskError, Kind, MemoryBudget, NoMemory, Verb};

/// Blocks per group.
const GROUP: usize = 4096;
/// Bytes per group, with its entry in the table.
const COST: u64 = GROUP as u64 * 4 + 64;

/// The entries of the map. From `FIRST_SLOT` on an entry is the slot of the block in the file.
pub(super) const BELOW: u32 = 0;
pub(super) const TRIMMED: u32 = 1;
pub(super) const FIRST_SLOT: u32 = 2;

#[derive(Debug, Error)]
#[error("the maps of overlays and the disks in memory have taken all of --memory-max")]
struct NoBudget;

#[derive(Debug)]
pub(super) struct Map {
    groups: HashMap<u64, Box<[u32]>>,
    budget: Arc<MemoryBudget>,
}

impl Map {
    pub(super) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self { groups: HashMap::new(), budget }
    }

    /// Whether the overlay has no block.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(super) fn get(&self, number: u64) -> u32 {
        let (group, index) = place(number);
        self.groups.get(&group).map_or(BELOW, |group| group[index])
    }

    /// Sets the entry of a block. This cannot fail where the group of the block has an entry already.
    ///
    /// # Errors
    /// `Kind::NoMemory`, or `Kind::NoSpace` if the budget is used up.
    pub(super) fn set(&mut self, number: u64, entry: u32) -> Result<(), DiskError> {
        let (group, index) = place(number);
        if !self.groups.contains_key(&group) {
            self.add(group)?;
        }
        if let Some(entries) = self.groups.get_mut(&group) {
            entries[index] = entry;
        }
        Ok(())
    }

    fn add(&mut self, group: u64) -> Result<(), DiskError> {
        let lack = |_| NoMemory.of(Verb::Open, (0, 0));
        self.groups.try_reserve(1).map_err(lack)?;
        let mut entries = Vec::new();
        entries.try_reserve_exact(GROUP).map_err(lack)?;
        entries.resize(GROUP, BELOW);
        if !self.budget.take(COST) {
            let source = Some(io::Error::other(NoBudget));
            return Err(DiskError { source, ..DiskError::new(Kind::NoSpace, Verb::Open, (0, 0)) });
        }
        self.groups.insert(group, entries.into());
        Ok(())
    }

    /// Drops all entries from this block on. Returns the slots that they had.
    pub(super) fn forget(&mut self, first: u64) -> Vec<u32> {
        let mut slots = Vec::new();
        let before = self.groups.len();
        self.groups.retain(|group, entries| {
            let kept = first.saturating_sub(group * GROUP as u64).min(GROUP as u64);
            let gone = &mut entries[usize::try_from(kept).unwrap_or(GROUP)..];
            slots.extend(gone.iter().copied().filter(|entry| *entry >= FIRST_SLOT));
            gone.fill(BELOW);
            entries.iter().any(|entry| *entry != BELOW)
        });
        self.budget.give_back((before - self.groups.len()) as u64 * COST);
        slots
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        self.budget.give_back(self.groups.len() as u64 * COST);
    }
}

fn place(number: u64) -> (u64, usize) {
    let group = GROUP as u64;
    (number / group, usize::try_from(number % group).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_charged_and_given_back() {
        let budget = Arc::new(MemoryBudget::new(2 * COST));
        let mut map = Map::new(Arc::clone(&budget));
        let far = GROUP as u64 * 100;
        map.set(1, TRIMMED).unwrap();
        map.set(far, FIRST_SLOT).unwrap();
        map.set(far + 1, FIRST_SLOT + 1).unwrap();
        assert_eq!(map.set(2 * far, TRIMMED).unwrap_err().kind, Kind::NoSpace);
        assert_eq!((map.get(1), map.get(far), map.get(2 * far)), (TRIMMED, FIRST_SLOT, BELOW));
        assert_eq!(map.forget(far + 1), [FIRST_SLOT + 1]);
        assert_eq!(map.forget(far), [FIRST_SLOT]);
        assert_eq!(budget.used(), COST);
        drop(map);
        assert_eq!(budget.used(), 0);
    }
}
