//! A guest's memory, as its VMM gives it: files that stay the VMM's. `queue` reads and writes it.
//!
//! Rust-vmm maps what it is told and asks nothing. Here it is looked at before anything is touched: a
//! VMM must not be able to end the agent with it (`sys::shared`), nor to stop one of its threads.

use std::{io, os::fd::AsFd, sync::Arc};

use nix::sys::{
    stat::{SFlag, fstat},
    statfs::{
        BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
        fstatfs,
    },
};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use super::queue::Broken;
use crate::sys::shared::Watch;

/// File systems whose pages come from this machine's memory or disks. A page of another one may be for
/// somebody else to bring (FUSE, a network), who need not: who touches it waits for ever.
const PROMPT: [FsType; 5] =
    [TMPFS_MAGIC, HUGETLBFS_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];

/// All of a guest's memory at a time.
#[derive(Debug, Clone)]
pub(super) struct Memory(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    map: Arc<GuestMemoryMmap>,
    /// One for each part of the map.
    watches: Vec<Watch>,
}

impl Memory {
    pub(super) fn new(map: Arc<GuestMemoryMmap>) -> io::Result<Self> {
        let watched = |part: &GuestRegionMmap| {
            check(part)?;
            Watch::new(part.get_mmap())
        };
        let watches = map.iter().map(watched).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Parts { map, watches })))
    }

    pub(super) fn map(&self) -> &GuestMemoryMmap {
        &self.0.map
    }

    /// To be asked after anything was read: it was the guest's, if this is well.
    pub(super) fn is_there(&self) -> Result<(), Broken> {
        if self.0.watches.iter().any(Watch::is_lost) { Err(Broken) } else { Ok(()) }
    }
}

fn check(part: &GuestRegionMmap) -> io::Result<()> {
    // A test's, without a file.
    let Some(place) = part.file_offset() else { return Ok(()) };
    let file = place.file().as_fd();
    let kind = SFlag::from_bits_truncate(fstat(file)?.st_mode) & SFlag::S_IFMT;
    let system = fstatfs(file)?;
    if kind != SFlag::S_IFREG || !PROMPT.contains(&system.filesystem_type()) {
        return Err(io::Error::other(
            "the guest's memory is a file that another process or machine may have to fill: give \
             QEMU '-object memory-backend-memfd,share=on,...'",
        ));
    }
    // Of huge pages only whole ones can be replaced.
    let page = u64::try_from(system.block_size()).unwrap_or(1).max(1);
    if system.filesystem_type() == HUGETLBFS_MAGIC && !part.len().is_multiple_of(page) {
        return Err(io::Error::other("the guest's memory ends amid a huge page"));
    }
    Ok(())
}
