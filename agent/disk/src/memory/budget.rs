//! A limit on the memory that several memory disks take together.

use std::sync::atomic::{AtomicU64, Ordering};

/// The limit. All disks with the same budget share it.
#[derive(Debug)]
pub struct MemoryBudget {
    most: u64,
    used: AtomicU64,
}

impl MemoryBudget {
    /// A limit of `most` bytes.
    pub const fn new(most: u64) -> Self {
        Self { most, used: AtomicU64::new(0) }
    }

    /// The number of bytes that are taken.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes` if that many are left. Returns whether they were.
    pub fn take(&self, bytes: u64) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = used.saturating_add(bytes) <= self.most;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    /// Gives back bytes that were taken.
    pub fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
