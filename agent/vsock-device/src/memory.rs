//! A guest's memory: files that the VMM sends and keeps open. `queue` reads and writes the memory.
//!
//! Every region is checked before it is mapped. A VMM must not be able to end the agent with it (`sys::shared`), to
//! stop one of its threads, or to use up the address space that other VMs need.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::sys::{
    stat::{SFlag, fstat},
    statfs::{
        BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
        fstatfs,
    },
    sysinfo::sysinfo,
};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

use crate::{
    broken::Broken,
    foreign::Foreign,
    sys::shared::{Watch, leave_pages},
    vhost_user::{MemoryError, message::Region},
};

/// File systems whose pages come from this machine's memory or disks. With others (FUSE, a network) another process or
/// machine provides a page, and the thread that touches the page waits until it does, possibly for ever.
const PROMPT: [FsType; 5] =
    [TMPFS_MAGIC, HUGETLBFS_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];

/// Address space of all VMs, in bytes: half of what a process has on x86_64 with four levels of page tables.
const ALL: u64 = 64 << 40;
/// One VM may have twice this machine's memory and swap, and at least this many bytes, since memory that can be
/// plugged in later is mapped before it exists.
const LEAST: u64 = 1 << 40;
/// This part of `ALL` is reserved for the paths in equal shares. A VM within its share is accepted however much the
/// others have.
const SHARED: u64 = ALL / 2;

/// The memory of a guest.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    map: GuestMemoryMmap,
    /// One watch for each region of the map.
    watches: Vec<Watch>,
    /// `None` in tests.
    reserved: Option<Reserved>,
}

impl Drop for Parts {
    fn drop(&mut self) {
        if self.reserved.is_some() {
            self.map.iter().for_each(|part| leave_pages(&part.get_mmap()));
        }
    }
}

impl Memory {
    /// Maps the regions, each from its file.
    pub(crate) fn from_regions(
        regions: &[Region],
        files: impl Iterator<Item = Foreign>,
        quota: &Arc<Quota>,
    ) -> Result<Self, MemoryError> {
        let mut parts: Vec<(usize, Region, Foreign)> =
            files.zip(regions).enumerate().map(|(i, (file, at))| (i, *at, file)).collect();
        parts.sort_by_key(|(_, region, _)| region.guest);
        let mut total = 0_u64;
        let mut end = 0;
        for (at, region, file) in &parts {
            check(*at, region, file)?;
            if region.guest < end {
                return Err(MemoryError::Overlap);
            }
            end = region.guest + region.len;
            total = total.checked_add(region.len).ok_or(MemoryError::Range(*at))?;
        }
        let reserved = quota.reserve(total)?;
        let mut mapped = Vec::new();
        for (at, region, file) in parts {
            let len = usize::try_from(region.len).map_err(|_| MemoryError::Range(at))?;
            let place = FileOffset::new(File::from(file.known()), region.offset);
            let mapping = MmapRegion::from_file(place, len).map_err(io::Error::other)?;
            let guest = GuestAddress(region.guest);
            mapped.push(GuestRegionMmap::new(mapping, guest).ok_or(MemoryError::Range(at))?);
        }
        let map = GuestMemoryMmap::from_regions(mapped).map_err(io::Error::other)?;
        Self::watched(map, Some(reserved)).map_err(MemoryError::System)
    }

    /// The same memory, mapped anew. The page tables of touched pages are freed with the old mapping. Removing only the
    /// pages would leave the tables, and a guest can cause one table per 2 MiB of an empty file.
    pub(crate) fn again(&self) -> Result<Self, MemoryError> {
        let wrong = || MemoryError::System(io::ErrorKind::Unsupported.into());
        let Some(Reserved(quota, bytes)) = &self.0.reserved else { return Err(wrong()) };
        let reserved = quota.reserve(*bytes)?;
        let mut mapped = Vec::new();
        for part in self.0.map.iter() {
            let mapping = part.get_mmap();
            let place = mapping.file_offset().cloned().ok_or_else(wrong)?;
            let mapping = MmapRegion::from_file(place, mapping.size()).map_err(io::Error::other)?;
            mapped.push(GuestRegionMmap::new(mapping, part.start_addr()).ok_or_else(wrong)?);
        }
        let map = GuestMemoryMmap::from_regions(mapped).map_err(io::Error::other)?;
        Self::watched(map, Some(reserved)).map_err(MemoryError::System)
    }

    fn watched(map: GuestMemoryMmap, reserved: Option<Reserved>) -> io::Result<Self> {
        let watches =
            map.iter().map(|part| Watch::new(part.get_mmap())).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Parts { map, watches, reserved })))
    }

    /// The memory of a test.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of(map: GuestMemoryMmap) -> io::Result<Self> {
        Self::watched(map, None)
    }

    /// The file of the region that begins at this address of the guest.
    pub(crate) fn file(&self, guest: u64) -> Option<BorrowedFd<'_>> {
        let region = self.0.map.find_region(GuestAddress(guest))?;
        Some(region.file_offset()?.file().as_fd())
    }

    pub(crate) fn map(&self) -> &GuestMemoryMmap {
        &self.0.map
    }

    /// Whether all of the memory was there so far. Call it after each read: on an error the bytes read may not be the
    /// guest's.
    pub(crate) fn is_there(&self) -> Result<(), Broken> {
        if self.0.watches.iter().any(Watch::is_lost) { Err(Broken) } else { Ok(()) }
    }
}

fn check(at: usize, region: &Region, file: &Foreign) -> Result<(), MemoryError> {
    let whole = |begin: u64| begin.checked_add(region.len).ok_or(MemoryError::Range(at));
    whole(region.guest)?;
    whole(region.user)?;
    let end = whole(region.offset)?;
    if region.len == 0 {
        return Err(MemoryError::Range(at));
    }
    let status = fstat(file.as_fd()).map_err(io::Error::from)?;
    let system = fstatfs(file).map_err(io::Error::from)?;
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFREG || !PROMPT.contains(&system.filesystem_type()) {
        return Err(MemoryError::Foreign);
    }
    // The file can be truncated later. A missing page is noticed when it is touched.
    let len = u64::try_from(status.st_size).unwrap_or(0);
    if end > len {
        return Err(MemoryError::File { at, end, len });
    }
    // Only whole huge pages can be replaced.
    let page = u64::try_from(system.block_size()).unwrap_or(1).max(1);
    if system.filesystem_type() == HUGETLBFS_MAGIC && !region.len.is_multiple_of(page) {
        return Err(MemoryError::HugePage);
    }
    Ok(())
}

/// Bytes that a VM may make the device hold in any case: the credit of four connections.
const LEAST_HELD: usize = 1 << 20;

/// One path's account in the shared address space.
#[derive(Debug)]
pub(crate) struct Quota(u64);

/// The bytes that each path has, by the number of its `Quota`.
static USED: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());

fn used() -> MutexGuard<'static, BTreeMap<u64, u64>> {
    USED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Quota {
    pub(crate) fn new() -> Self {
        let mut used = used();
        let number = used.last_key_value().map_or(0, |(last, _)| last + 1);
        used.insert(number, 0);
        Self(number)
    }

    /// Bytes that a VM of this path may make the device hold: at most `most`, and all VMs together a quarter of
    /// this machine's memory.
    pub(crate) fn held(&self, most: usize) -> usize {
        let others = used().keys().filter(|number| **number != self.0).count();
        let share = machine_memory() / 4 / (u64::try_from(others).unwrap_or(u64::MAX - 1) + 1);
        usize::try_from(share).unwrap_or(usize::MAX).clamp(LEAST_HELD, most)
    }

    /// Reserves address space for a VM of this path, in place of what the path has now.
    fn reserve(self: &Arc<Self>, wanted: u64) -> Result<Reserved, MemoryError> {
        let most = most_of_one();
        if wanted > most {
            return Err(MemoryError::VmLimit { wanted, most });
        }
        let mut used = used();
        let share = SHARED / u64::try_from(used.len()).unwrap_or(u64::MAX).max(1);
        let others = used.iter().filter(|(number, _)| **number != self.0);
        // While a mapping replaces another there are both; there is enough room for that.
        let others: u64 = others.map(|(_, bytes)| share.max(*bytes)).sum();
        if wanted > ALL.saturating_sub(others) {
            return Err(MemoryError::AllLimit { wanted, used: used.values().sum() });
        }
        *used.entry(self.0).or_default() += wanted;
        Ok(Reserved(Arc::clone(self), wanted))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        used().remove(&self.0);
    }
}

/// A VM's part of the shared address space. Dropping it releases the part.
#[derive(Debug)]
struct Reserved(Arc<Quota>, u64);

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(bytes) = used().get_mut(&self.0.0) {
            *bytes -= self.1;
        }
    }
}

fn most_of_one() -> u64 {
    let swap = sysinfo().map_or(0, |info| info.swap_total());
    machine_memory().saturating_add(swap).saturating_mul(2).max(LEAST)
}

/// Most bytes of page tables of this process. Beyond that the memory of VMs is mapped anew. These are the tables of
/// 64 GiB, or of this machine's memory if that is more.
pub(crate) fn most_tables() -> u64 {
    (machine_memory() / 256).max(128 << 20)
}

fn machine_memory() -> u64 {
    sysinfo().map_or(0, |info| info.ram_total())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use nix::{
        sys::memfd::{MFdFlags, memfd_create},
        unistd::ftruncate,
    };

    use vm_memory::Bytes;

    use super::*;
    use crate::sys::page_tables;

    fn file(len: u64) -> OwnedFd {
        let file = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
        ftruncate(&file, i64::try_from(len).unwrap()).unwrap();
        file
    }

    #[test]
    fn mapping_memory_anew_frees_its_page_tables() {
        const LEN: u64 = 16 << 30;
        let quota = Arc::new(Quota::new());
        let before = map(&quota, &[(0, LEN, 0)], LEN).unwrap();
        let tables = || page_tables().expect("/proc is there");
        let least = tables();
        for at in (0..LEN).step_by(2 << 20) {
            before.map().write_slice(&[7], GuestAddress(at)).unwrap();
        }
        assert!(tables() > least + (24 << 20), "{} of {least}", tables());
        let after = before.again().unwrap();
        drop(before);
        assert!(tables() < least + (8 << 20), "{} of {least}", tables());
        let mut byte = [0];
        after.map().read_slice(&mut byte, GuestAddress(LEN / 2)).unwrap();
        assert_eq!(byte, [7]);
        drop(after);
        assert_eq!(used().get(&quota.0), Some(&0));
    }

    fn map(
        quota: &Arc<Quota>,
        regions: &[(u64, u64, u64)],
        file_len: u64,
    ) -> Result<Memory, MemoryError> {
        let regions: Vec<_> = (regions.iter())
            .map(|&(guest, len, offset)| Region { guest, len, user: guest, offset })
            .collect();
        Memory::from_regions(&regions, regions.iter().map(|_| Foreign::new(file(file_len))), quota)
    }

    #[test]
    fn regions_are_no_longer_than_their_files_and_do_not_overlap() {
        let quota = Arc::new(Quota::new());
        map(&quota, &[(0x10000, 0x10000, 0), (0, 0x10000, 0x10000)], 0x20000).unwrap();
        for (regions, what) in [
            (&[(0, 0x10001, 0x10000)][..], "ends at byte 131073 of a file that has 131072"),
            (&[(0, 0x10000, u64::MAX - 5)], "beyond the last address"),
            (&[(u64::MAX - 5, 0x10000, 0)], "beyond the last address"),
            (&[(0, 0, 0)], "is empty"),
            (&[(0, 0x10000, 0), (0x8000, 0x10000, 0)], "overlap"),
        ] {
            let error = map(&quota, regions, 0x20000).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let pipe = nix::unistd::pipe().unwrap().0;
        let region = Region { guest: 0, len: 4096, user: 0, offset: 0 };
        let error =
            Memory::from_regions(&[region], [Foreign::new(pipe)].into_iter(), &quota).unwrap_err();
        assert!(matches!(error, MemoryError::Foreign), "{error}");
        assert_eq!(used().values().sum::<u64>(), 0, "what was refused holds nothing");
    }

    #[test]
    fn all_vms_together_hold_a_quarter_of_the_memory() {
        let quotas: Vec<_> = (0..10_000).map(|_| Quota::new()).collect();
        let each = quotas[0].held(64 << 20);
        let all = u64::try_from(each).unwrap() * 10_000;
        assert!(all <= machine_memory() / 4 || each == LEAST_HELD, "{each}");
        drop(quotas);
        assert!(Quota::new().held(64 << 20) > each);
    }

    #[test]
    fn vms_cannot_take_the_share_of_the_next_vm() {
        const PATHS: u64 = 200;
        let most = most_of_one();
        let quotas: Vec<_> = (0..PATHS).map(|_| Arc::new(Quota::new())).collect();
        let error = map(&quotas[0], &[(0, most + 4096, 0)], most + 4096).unwrap_err().to_string();
        assert!(error.contains("more than one VM may have"), "{error}");
        // The others take as much as they can get.
        let mut held = Vec::new();
        for quota in &quotas[1..] {
            let mut wanted = most;
            loop {
                match map(quota, &[(0, wanted, 0)], wanted) {
                    Ok(memory) => break held.push(memory),
                    Err(MemoryError::AllLimit { .. }) => wanted = wanted / 4096 / 2 * 4096,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let share = SHARED / PATHS / 4096 * 4096;
        let memory = map(&quotas[0], &[(0, share, 0)], share).unwrap();
        // A second mapping, as after memory was plugged in; and the agent itself has room.
        let second = map(&quotas[0], &[(0, share, 0)], share).unwrap();
        drop((memory, second, vec![0_u8; 1 << 28]));
        assert!(map(&quotas[0], &[(0, most, 0)], most).is_err());
        held.clear();
        assert_eq!(used().values().sum::<u64>(), 0);
        map(&quotas[0], &[(0, most, 0)], most).unwrap();
        drop(quotas);
        assert!(used().is_empty());
    }
}
