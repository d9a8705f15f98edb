//! The state that all connections to a file or device share, in addition to its durability: the descriptors, and the
//! locks for changes.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};

use super::{Opened, edges::Edges};
use crate::{
    auditor::{Audit, Auditor, Begun},
    descriptors::{Descriptors, Sync},
    registry::{self, Witness},
};

/// Every file that this process serves.
pub(super) static FILES: LazyLock<registry::Registry<Shared>> =
    LazyLock::new(registry::Registry::new);

pub(super) type Member = registry::Member<Shared>;

#[derive(Debug)]
pub(super) struct Shared {
    descriptors: Descriptors<File, Opened>,
    auditor: Auditor<File>,
    /// Whether a connection can write.
    writable: AtomicBool,
    pub(super) edges: Edges,
}

impl Shared {
    /// The state for these descriptors, which were opened before anything was written through another descriptor.
    pub(super) fn new(witness: File, auditor: File) -> Self {
        // The program that serves a FUSE filesystem decides what fdatasync covers: sshfs has a queue for each descriptor.
        let found = fstatfs(&witness).map(|found| found.filesystem_type());
        let separate = found == Ok(FUSE_SUPER_MAGIC);
        let descriptors = Descriptors::new(witness, separate);
        let (writable, auditor) = (AtomicBool::new(false), Auditor::new(auditor));
        Self { descriptors, auditor, writable, edges: Edges::default() }
    }

    /// An open file like `new` that other connections have, or `new`.
    pub(super) fn share(&self, new: Opened) -> Arc<Opened> {
        if !new.info.read_only {
            self.writable.store(true, Ordering::Relaxed);
        }
        self.descriptors.add(new, Opened::is_like)
    }
}

impl Witness for Shared {
    fn sync(&self) -> io::Result<()> {
        match self.descriptors.sync() {
            // A read-only filesystem has nothing to flush, and may not support fdatasync.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EROFS))
                    && !self.writable.load(Ordering::Relaxed) =>
            {
                Ok(())
            }
            synced => synced,
        }
    }

    fn is_unlinked(&self) -> bool {
        let found = self.descriptors.witness().metadata();
        found.is_ok_and(|found| found.is_file() && found.nlink() == 0)
    }

    fn begin(&self) -> Begun {
        self.auditor.begin()
    }

    fn audit(&self, begun: Begun) -> Audit {
        self.auditor.audit(begun)
    }
}

impl Sync for Opened {
    fn sync(&self) -> io::Result<()> {
        let tail = self.direct.as_ref().and_then(|direct| direct.tail.as_ref());
        // Sync both, even if one fails.
        let tail = tail.map_or(Ok(()), |(_, tail)| tail.sync_data());
        self.file.sync_data().and(tail)
    }
}
