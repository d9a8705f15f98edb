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
    /// Fails with it, once.
    fn hear(&self) -> io::Result<()>;
}

impl Hears for File {
    fn hear(&self) -> io::Result<()> {
        sys::written_back(self)
    }
}

/// One for each file that this process has open.
#[derive(Debug)]
pub(crate) struct Auditor<D> {
    /// `None` where it cannot be asked.
    descriptor: Option<D>,
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
    /// `descriptor`: open before the first write. An old kernel, and a filter of system calls, may not let it ask.
    pub(crate) fn new(descriptor: D) -> Self {
        let cannot = [libc::ENOSYS, libc::EINVAL, libc::ESPIPE, libc::EPERM].map(Some);
        let able = descriptor.hear().err().is_none_or(|e| !cannot.contains(&e.raw_os_error()));
        Self { descriptor: able.then_some(descriptor), heard: Mutex::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be asked before a durable write begins. What has failed before is not this one's.
    pub(crate) fn begin(&self) -> Begun {
        let mut heard = self.lock();
        if self.descriptor.as_ref().is_some_and(|descriptor| descriptor.hear().is_err()) {
            *heard += 1;
        }
        Begun(*heard)
    }

    /// To be asked when it has succeeded.
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

    /// Fails once when it is told to.
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
    fn where_it_cannot_ask_it_knows_nothing() {
        let auditor = Auditor::new(Refused);
        assert!(matches!(auditor.audit(auditor.begin()), Audit::Unknown));
    }

    #[test]
    fn an_error_is_told_to_all_who_had_begun_and_to_nobody_later() {
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
