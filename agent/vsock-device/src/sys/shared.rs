//! Memory mapped from a file of another process. That process can truncate the file at any time, or name more of the
//! file than exists. A thread that touches a missing page gets SIGBUS, which ends the process.
//!
//! The device touches the memory of guests, and one VMM must not end the agent, which serves all the others. So while a
//! mapping is watched, a SIGBUS in it maps empty memory in place of the file, and notes that the guest's memory is
//! lost. Seals are not enough: F_SEAL_SHRINK covers neither a length that never existed nor a huge page that the
//! machine does not have, and QEMU's memory-backend-file and other VMMs set no seals.

use std::{
    fmt, io, ptr,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, compiler_fence, fence},
    },
};

use nix::unistd::{SysconfVar, sysconf};
use vm_memory::MmapRegion;

/// A watched mapping: it may lose its memory without ending the process, while this exists.
pub(crate) struct Watch {
    slot: &'static Slot,
    /// Stays mapped until the slot is free: it is dropped after the slot.
    _mapping: Arc<MmapRegion>,
}

impl Watch {
    pub(crate) fn new(mapping: Arc<MmapRegion>) -> io::Result<Self> {
        // The handler may map over this range: all of it comes from mmap(2) and ends with this mapping.
        if !mapping.owned() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        install()?;
        let slot = Slot::take(mapping.as_ptr() as usize, mapping.size());
        Ok(Self { slot, _mapping: mapping })
    }

    /// Whether a page was missing when it was touched. Bytes read since then may be zeroes.
    pub(crate) fn is_lost(&self) -> bool {
        // Ordered after the reads and writes so far, even if another thread's access was the first.
        compiler_fence(Ordering::SeqCst);
        fence(Ordering::Acquire);
        self.slot.lost.load(Ordering::SeqCst)
    }
}

/// Bytes whose pages are removed from this process's page tables per call, which takes some milliseconds at most.
const PIECE: usize = 256 << 20;

/// Removes the pages of a file mapping from this process's page tables, piece by piece; the file keeps them. Call it
/// before munmap(2), which would remove all of them at once: other threads that map or fault memory would wait
/// meanwhile, for seconds with a large guest.
pub(crate) fn leave_pages(mapping: &MmapRegion) {
    for at in (0..mapping.size()).step_by(PIECE) {
        let len = PIECE.min(mapping.size() - at);
        // SAFETY: the piece is within the mapping, which is borrowed. A page of a shared file is mapped again when it
        // is touched. Empty memory that replaced a lost page has no content.
        unsafe { libc::madvise(mapping.as_ptr().add(at).cast(), len, libc::MADV_DONTNEED) };
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.slot.set(0, 0);
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(self.slot);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("lost", &self.is_lost()).finish_non_exhaustive()
    }
}

/// A range of addresses for the handler, which must not take a lock or allocate.
struct Slot {
    /// Odd while the range is being changed. (The range that the thread in the handler has touched does not change: it
    /// is watched as long as it is used.)
    version: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
    /// Slots are never freed.
    next: *const Self,
}

// SAFETY: `next` is only read, and what it points to is never freed.
unsafe impl Sync for Slot {}

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
/// The slots without a range.
static FREE: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

impl Slot {
    fn take(start: usize, len: usize) -> &'static Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = free.pop().unwrap_or_else(|| {
            // The lock is held, so no other thread adds a slot.
            let slot = Box::leak(Box::new(Self {
                version: AtomicUsize::new(0),
                start: AtomicUsize::new(0),
                len: AtomicUsize::new(0),
                lost: AtomicBool::new(false),
                next: SLOTS.load(Ordering::Relaxed),
            }));
            SLOTS.store(slot, Ordering::Release);
            slot
        });
        slot.lost.store(false, Ordering::Relaxed);
        slot.set(start, len);
        slot
    }

    fn set(&self, start: usize, len: usize) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The range, if `at` is in it.
    fn range_around(&self, at: usize) -> Option<(usize, usize)> {
        let version = self.version.load(Ordering::Acquire);
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let settled = version.is_multiple_of(2) && version == self.version.load(Ordering::Relaxed);
        (settled && at.wrapping_sub(start) < len).then_some((start, len))
    }
}

/// The previous handler: that of std, which detects stack overflows.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());
/// The size of a page in bytes, a power of two.
static PAGE: AtomicUsize = AtomicUsize::new(4096);

fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        if let Some(page) = page.and_then(|page| usize::try_from(page).ok()) {
            PAGE.store(page, Ordering::Relaxed);
        }
        let before = Box::leak(Box::new(no_action()));
        let mut action = no_action();
        action.sa_sigaction = on_bus_error as *const () as usize;
        // On the thread's signal stack if it has one, as std's handler.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: reads and writes the two structures, which live on; the handler has the type that
        // SA_SIGINFO asks for. `BEFORE` is set first, to the place that will be written.
        unsafe {
            libc::sigaction(libc::SIGBUS, ptr::null(), before);
            BEFORE.store(before, Ordering::Release);
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
        }
    });
    if BEFORE.load(Ordering::Acquire).is_null() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(())
}

fn no_action() -> libc::sigaction {
    // SAFETY: a C structure of integers and an optional function: zeroes are SIG_DFL, no flags and an
    // empty mask.
    unsafe { std::mem::zeroed() }
}

/// Runs on the thread that touched a missing page. It uses only atomics and system calls.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a valid structure; a code over 0 says that it is of a fault, and then the
    // address is set.
    let fault = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) };
    if fault.is_some_and(replace) {
        return;
    }
    // SAFETY: set before this handler was installed, and never freed.
    let before = unsafe { &*BEFORE.load(Ordering::Acquire) };
    if before.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: with SA_SIGINFO the field is such a function, and these are what it was to get.
        unsafe {
            let before: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(before.sa_sigaction);
            before(signal, info, context);
        }
    } else {
        // SAFETY: restores the previous action. The fault happens again and is handled as without this handler.
        unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
    }
}

/// Maps empty memory over the missing part of the watched mapping around `at`; false if no watched mapping has `at`.
fn replace(at: usize) -> bool {
    let mut next: *const Slot = SLOTS.load(Ordering::Acquire);
    // SAFETY: slots are never freed, and the list ends with null.
    while let Some(slot) = unsafe { next.as_ref() } {
        next = slot.next;
        let Some((start, len)) = slot.range_around(at) else { continue };
        // Noted first, so that no thread takes the empty memory for the guest's.
        slot.lost.store(true, Ordering::SeqCst);
        // If the kernel refuses that much memory, replace only the page.
        let page = PAGE.load(Ordering::Relaxed);
        return map_empty(start, len) || map_empty(at & !(page - 1), page);
    }
    false
}

fn map_empty(start: usize, len: usize) -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: all of the range belongs to a mapping that its `Watch` keeps until it is over, and this
    // thread uses both. What is in it may change at any time anyway: it is shared with another process,
    // and only read and written as such (volatile).
    let mapped = unsafe { libc::mmap(start as *mut _, len, protection, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::{fd::OwnedFd, unix::process::ExitStatusExt},
    };

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

    use super::*;

    fn memory(len: usize) -> (File, GuestMemoryMmap, Watch) {
        let file: OwnedFd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(len as u64).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let mapping = Arc::new(MmapRegion::from_file(offset, len).unwrap());
        let watch = Watch::new(Arc::clone(&mapping)).unwrap();
        let region = GuestRegionMmap::with_arc(mapping, GuestAddress(0)).unwrap();
        (file, GuestMemoryMmap::from_regions(vec![region]).unwrap(), watch)
    }

    #[test]
    fn memory_that_is_taken_away_reads_as_zeroes_and_is_reported_as_lost() {
        let (_other_file, other, other_watch) = memory(1 << 20);
        let (file, memory, watch) = memory(1 << 20);
        for memory in [&memory, &other] {
            memory.write_slice(&[7; 100], GuestAddress(0x8000)).unwrap();
        }
        assert!(!watch.is_lost());
        file.set_len(4096).unwrap();
        let mut bytes = [1; 100];
        memory.read_slice(&mut bytes, GuestAddress(0x8000)).unwrap();
        assert_eq!((bytes, watch.is_lost()), ([0; 100], true));
        memory.write_slice(&[7; 100], GuestAddress(0x9000)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4096);
        // The other mapping has not changed.
        other.read_slice(&mut bytes, GuestAddress(0x8000)).unwrap();
        assert_eq!((bytes, other_watch.is_lost()), ([7; 100], false));
    }

    #[test]
    fn a_mapping_longer_than_its_file_is_handled_in_the_same_way() {
        let (file, memory, watch) = memory(1 << 20);
        drop((memory, watch));
        file.set_len(0).unwrap();
        let mapping = Arc::new(MmapRegion::from_file(FileOffset::new(file, 0), 1 << 20).unwrap());
        let watch = Watch::new(Arc::clone(&mapping)).unwrap();
        assert!(!watch.is_lost(), "a slot is used again");
        let region = GuestRegionMmap::with_arc(mapping, GuestAddress(0)).unwrap();
        let memory = GuestMemoryMmap::<()>::from_regions(vec![region]).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0xffff8)).unwrap(), 0);
        assert!(watch.is_lost());
    }

    /// A SIGBUS outside of watched mappings, in a child process: the process ends as without the handler.
    #[test]
    fn another_bus_error_still_ends_the_process() {
        const CHILD: &str = "AGENT_TEST_OF_ANOTHER_BUS_ERROR";
        if std::env::var_os(CHILD).is_some() {
            let (_file, _memory, _watch) = memory(1 << 20);
            let (file, foreign, watch) = memory(1 << 20);
            drop(watch);
            file.set_len(0).unwrap();
            let read = foreign.read_obj::<u64>(GuestAddress(0));
            panic!("it goes on: {read:?}");
        }
        let name = "sys::shared::tests::another_bus_error_still_ends_the_process";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{text}");
    }
}
