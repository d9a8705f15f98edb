//! Whether a durable write is durable, when others write at the same time.
//!
//! Linux reports an error of writeback once for each open descriptor (`descriptors`), to whichever call on it looks
//! first. Of two writes with RWF_DSYNC that fail on one descriptor at the same time, one fails and the other
//! succeeds: the first has heard of both. So a write that has succeeded asks here. This descriptor is there for this
//! question alone, which one asks at a time: an error that it hears is known to all whose write had begun before.

use std::{fs::File, io, sync::PoisonError};

use crate::{
    primitives::{Mutex, MutexGuard},
    sys::file as sys,
};

/// Tells the error of a file's writeback that this descriptor has not heard of yet.
pub(crate) trait Hears {
    /// Fails with it, once; `None` where this cannot be asked.
    fn hear(&self) -> Option<io::Result<()>>;
}

impl Hears for File {
    fn hear(&self) -> Option<io::Result<()>> {
        match sys::written_back(self) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE)
                ) =>
            {
                None
            }
            heard => Some(heard),
        }
    }
}

/// One for each file that this process has open.
#[derive(Debug)]
pub(crate) struct Auditor<D> {
    descriptor: D,
    /// Errors that it has heard.
    heard: Mutex<u64>,
}

/// How many errors were heard when a write began.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Begun(u64);

/// What is known of a write that succeeded.
#[derive(Debug)]
pub(crate) enum Audit {
    /// No writeback of the file has failed since it began.
    Durable,
    /// One has; it may have been this one's.
    Lost(io::Error),
    /// It cannot be asked: a sync finds out.
    Unknown,
}

impl<D: Hears> Auditor<D> {
    /// `descriptor`: open before the first write.
    pub(crate) fn new(descriptor: D) -> Self {
        Self { descriptor, heard: Mutex::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be asked before a durable write begins. What has failed before is not this one's.
    pub(crate) fn begin(&self) -> Begun {
        let mut heard = self.lock();
        if let Some(Err(_)) = self.descriptor.hear() {
            *heard += 1;
        }
        Begun(*heard)
    }

    /// To be asked when it has succeeded.
    pub(crate) fn audit(&self, begun: Begun) -> Audit {
        let mut heard = self.lock();
        let failed = match self.descriptor.hear() {
            None => return Audit::Unknown,
            Some(Ok(())) => None,
            Some(Err(error)) => {
                *heard += 1;
                Some(error)
            }
        };
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

    #[derive(Debug, Default)]
    struct Once(AtomicBool);

    impl Hears for Once {
        fn hear(&self) -> Option<io::Result<()>> {
            let failed = self.0.swap(false, Ordering::Relaxed);
            Some(if failed { Err(io::ErrorKind::Other.into()) } else { Ok(()) })
        }
    }

    #[test]
    fn an_error_is_told_to_all_who_had_begun_and_to_nobody_later() {
        let auditor = Auditor::new(Once::default());
        let [one, two, three] = [(); 3].map(|()| auditor.begin());
        assert!(matches!(auditor.audit(one), Audit::Durable));
        auditor.descriptor.0.store(true, Ordering::Relaxed);
        assert!(matches!(auditor.audit(two), Audit::Lost(_)));
        assert!(matches!(auditor.audit(three), Audit::Lost(_)), "the other has heard for both");
        let four = auditor.begin();
        assert!(matches!(auditor.audit(four), Audit::Durable));
        auditor.descriptor.0.store(true, Ordering::Relaxed);
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
