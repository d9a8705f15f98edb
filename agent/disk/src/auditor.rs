//! Checks whether a durable write is durable while others write at the same time.
//!
//! Linux reports an error of writeback once for each open descriptor (`descriptors`), to whichever call on it looks
//! first. Of two writes with RWF_DSYNC that fail on one descriptor at the same time, one fails and the other succeeds,
//! since the first got the error of both. So a write that has succeeded asks the auditor. The auditor has a descriptor
//! for this question only, and one thread asks at a time: an error that it reports counts for every write that had
//! begun before.

use std::{fs::File, io, sync::PoisonError};

use crate::{
    primitives::{Mutex, MutexGuard},
    sys::file as sys,
};

/// A descriptor that can be asked for the error of its file's writeback.
pub(crate) trait Hears {
    /// Fails with the error that this descriptor has not reported yet, once.
    fn hear(&self) -> io::Result<()>;
}

impl Hears for File {
    fn hear(&self) -> io::Result<()> {
        sys::written_back(self)
    }
}

/// The auditor of a file. There is one for each file that this process has open.
#[derive(Debug)]
pub(crate) struct Auditor<D> {
    /// `None` if the kernel does not answer the question.
    descriptor: Option<D>,
    /// The number of errors that were reported.
    heard: Mutex<u64>,
}

/// The number of errors that had been reported when a write began.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Begun(u64);

/// What is known of the durability of a write that succeeded.
#[derive(Debug)]
pub(crate) enum Audit {
    /// No writeback of the file has failed since the write began.
    Durable,
    /// A writeback of the file has failed; it may have been that of this write.
    Lost(io::Error),
    /// The auditor cannot be asked, and only a sync finds out.
    Unknown,
}

impl<D: Hears> Auditor<D> {
    /// An auditor with a descriptor that was opened before the first write. An old kernel or a filter of system calls
    /// may not allow the question.
    pub(crate) fn new(descriptor: D) -> Self {
        let cannot = [libc::ENOSYS, libc::EINVAL, libc::ESPIPE, libc::EPERM].map(Some);
        let able = descriptor.hear().err().is_none_or(|e| !cannot.contains(&e.raw_os_error()));
        Self { descriptor: able.then_some(descriptor), heard: Mutex::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called before a durable write begins. Earlier failures do not count for it.
    pub(crate) fn begin(&self) -> Begun {
        let mut heard = self.lock();
        if self.descriptor.as_ref().is_some_and(|descriptor| descriptor.hear().is_err()) {
            *heard += 1;
        }
        Begun(*heard)
    }

    /// Called when the write has succeeded.
    pub(crate) fn audit(&self, begun: Begun) -> Audit {
        let Some(descriptor) = &self.descriptor else { return Audit::Unknown };
        let mut heard = self.lock();
        let failed = descriptor.hear().err();
        *heard += u64::from(failed.is_some());
        if *heard == begun.0 {
            return Audit::Durable;
        }
        Audit::Lost(failed.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EIO)))
    }
}

#[cfg(all(test, feature = "loom"))]
mod interleavings;
#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Fails once, on demand.
    #[derive(Debug, Default)]
    struct Once(AtomicBool);

    impl Hears for &Once {
        fn hear(&self) -> io::Result<()> {
            let failed = self.0.swap(false, Ordering::Relaxed);
            if failed { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }
    }

    struct Refused;

    impl Hears for Refused {
        fn hear(&self) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(libc::EPERM))
        }
    }

    #[test]
    fn an_auditor_that_cannot_ask_knows_nothing() {
        let auditor = Auditor::new(Refused);
        assert!(matches!(auditor.audit(auditor.begin()), Audit::Unknown));
    }

    #[test]
    fn an_error_counts_for_every_write_that_had_begun_and_for_no_later_one() {
        let once = Once::default();
        let auditor = Auditor::new(&once);
        let [one, two, three] = [(); 3].map(|()| auditor.begin());
        assert!(matches!(auditor.audit(one), Audit::Durable));
        once.0.store(true, Ordering::Relaxed);
        assert!(matches!(auditor.audit(two), Audit::Lost(_)));
        assert!(matches!(auditor.audit(three), Audit::Lost(_)), "the other has heard for both");
        let four = auditor.begin();
        assert!(matches!(auditor.audit(four), Audit::Durable));
        once.0.store(true, Ordering::Relaxed);
        let five = auditor.begin();
        assert!(matches!(auditor.audit(five), Audit::Durable), "it failed before that began");
        assert!(matches!(auditor.audit(four), Audit::Lost(_)));
    }

    #[test]
    fn a_file_without_errors_is_durable() {
        let auditor = Auditor::new(tempfile::tempfile().unwrap());
        let begun = auditor.begin();
        assert!(matches!(auditor.audit(begun), Audit::Durable | Audit::Unknown));
    }
}
