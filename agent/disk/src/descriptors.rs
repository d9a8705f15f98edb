//! The descriptors by which a process has one file open, and which of them gets an error of writeback.
//!
//! Linux keeps the last error of a file's writeback and reports it once for each open descriptor
//! (errseq_t), to whichever call on it looks first: fdatasync(2), or a write with RWF_DSYNC. A descriptor
//! that is opened after the error, and after another descriptor has reported it, does not report it. So one
//! descriptor, the witness, is used for fdatasync only, from before the first write until everything is durable. An
//! error on another descriptor only fails its request: the witness reports it as well.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// fdatasync(2).
pub(crate) trait Sync {
    fn sync(&self) -> io::Result<()>;
}

impl Sync for std::fs::File {
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

pub(crate) struct Descriptors<W, D> {
    witness: W,
    /// Whether fdatasync on one descriptor does not cover bytes that were written through another.
    separate: bool,
    others: Mutex<Vec<Weak<D>>>,
}

impl<W: fmt::Debug, D> fmt::Debug for Descriptors<W, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptors").field("witness", &self.witness).finish_non_exhaustive()
    }
}

impl<W: Sync, D: Sync> Descriptors<W, D> {
    pub(crate) fn new(witness: W, separate: bool) -> Self {
        Self { witness, separate, others: Mutex::default() }
    }

    pub(crate) fn witness(&self) -> &W {
        &self.witness
    }

    /// Adds a descriptor, unless one that is as good is there, and returns the one to use.
    pub(crate) fn add(&self, new: D, as_good: impl Fn(&D, &D) -> bool) -> Arc<D> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.retain(|other| other.strong_count() > 0);
        let found = others.iter().filter_map(Weak::upgrade).find(|other| as_good(other, &new));
        found.unwrap_or_else(|| {
            let new = Arc::new(new);
            others.push(Arc::downgrade(&new));
            new
        })
    }

    fn others(&self) -> Vec<Arc<D>> {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.iter().filter_map(Weak::upgrade).collect()
    }

    /// Makes durable what was written through any of the descriptors.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // Sync each of them, even if another fails.
        let mut synced = self.witness.sync();
        if self.separate {
            for other in self.others() {
                let other = other.sync();
                synced = synced.and(other);
            }
        }
        if synced.is_err() {
            // The error is known now. Clear it on the others, so that no later request through them fails with it.
            for other in self.others() {
                other.sync().ok();
            }
        }
        synced
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts its syncs, and fails this many times.
    #[derive(Debug, Default)]
    struct Counter(AtomicU32, AtomicU32);

    impl Sync for Counter {
        fn sync(&self) -> io::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let failing =
                self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if failing.is_ok() { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }
    }

    fn counts(separate: bool, fail: u32) -> (bool, [u32; 3]) {
        let descriptors = Descriptors::new(Counter::default(), separate);
        let [one, two] = [(); 2].map(|()| descriptors.add(Counter::default(), |_, _| false));
        one.1.store(fail, Ordering::Relaxed);
        let synced = descriptors.sync().is_ok();
        let counted = |counter: &Counter| counter.0.load(Ordering::Relaxed);
        (synced, [counted(descriptors.witness()), counted(&one), counted(&two)])
    }

    #[test]
    fn the_witness_is_enough_unless_the_filesystem_keeps_them_apart() {
        assert_eq!(counts(false, 1), (true, [1, 0, 0]), "the other was not asked");
        assert_eq!(counts(true, 0), (true, [1, 1, 1]));
        assert_eq!(counts(true, 1), (false, [1, 2, 2]), "all hear of it now");
    }

    #[test]
    fn a_descriptor_that_is_as_good_is_shared_while_it_is_in_use() {
        let descriptors = Descriptors::new(Counter::default(), false);
        let first = descriptors.add(Counter::default(), |_, _| true);
        assert!(Arc::ptr_eq(&first, &descriptors.add(Counter::default(), |_, _| true)));
        drop(first);
        assert_eq!(descriptors.others().len(), 0);
    }
}
