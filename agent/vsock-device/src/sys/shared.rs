//! Memory that is another process's file: that process can make the file shorter at any time (and can
//! name a longer piece than there is from the start), and who then touches the mapping gets SIGBUS,
//! which ends the process.
//!
//! The device touches the memory of guests, and one VMM must not end the agent under all the others. So
//! while a mapping is watched, a SIGBUS in it puts empty memory in the file's place, and notes that what
//! is there is nobody's any more. Seals would not do: F_SEAL_SHRINK says nothing of a length that was
//! never there or of a huge page that the machine has not got, and QEMU's memory-backend-file and other
//! VMMs have none.

use std::{
    fmt, io, ptr,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, compiler_fence, fence},
    },
};

use nix::unistd::{SysconfVar, sysconf};
use vm_memory::MmapRegion;

/// A mapping that may lose its memory without harm, for as long as this is there.
pub(crate) struct Watch {
    slot: &'static Slot,
    /// It is mapped until nobody looks after it any more: dropped after the slot is free.
    _mapping: Arc<MmapRegion>,
}

impl Watch {
    pub(crate) fn new(mapping: Arc<MmapRegion>) -> io::Result<Self> {
        // Only what the handler may map over: all of it is of mmap(2), and ends with it.
        if !mapping.owned() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        install()?;
        let slot = Slot::take(mapping.as_ptr() as usize, mapping.size());
        Ok(Self { slot, _mapping: mapping })
    }

    /// Some of it was not there when it was touched. What was read since may be zeroes.
    pub(crate) fn is_lost(&self) -> bool {
        // Not before what was read or written so far, also where another thread's access was the first.
        compiler_fence(Ordering::SeqCst);
        fence(Ordering::Acquire);
        self.slot.lost.load(Ordering::SeqCst)
    }
}

/// Bytes whose pages are taken out of this process's tables at a time: some milliseconds at most.
const PIECE: usize = 256 << 20;

/// Removes a file mapping's pages from this process's page tables, piece by piece; the file keeps them.
/// Called before the mapping is unmapped: munmap(2) removes all of them in one go, and other threads that
/// map or fault memory wait meanwhile, which takes seconds for a large guest.
pub(crate) fn leave_pages(mapping: &MmapRegion) {
    for at in (0..mapping.size()).step_by(PIECE) {
        let len = PIECE.min(mapping.size() - at);
        // SAFETY: the piece is within the mapping, which is borrowed. A page of a shared file is mapped
        // again when it is touched; the empty memory that replaced a lost page holds nothing.
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

/// A range of addresses, for the handler: it may take no lock and no memory.
struct Slot {
    /// Odd while the range is being changed. (A range that changes is not the one that the thread in
    /// the handler has touched: that one is watched as long as it is touched.)
    version: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
    /// Slots are never given back to the system.
    next: *const Self,
}

// SAFETY: `next` is only read, and what it points to is never freed.
unsafe impl Sync for Slot {}

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
/// Those without a range.
static FREE: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

impl Slot {
    fn take(start: usize, len: usize) -> &'static Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = free.pop().unwrap_or_else(|| {
            // The lock is held: nobody else adds one.
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

/// What was there before: std's handler, which knows where stacks end.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());
/// Bytes, a power of two.
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
        // On the thread's own stack for signals, where it has one, as std's.
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

/// Runs on the thread that touched memory that is not there. Only atomics and system calls.
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
        // SAFETY: as it was before us; the fault comes again, and ends the process as it would have.
        unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
    }
}

/// Puts empty memory where the watched mapping around `at` is; false if there is none.
fn replace(at: usize) -> bool {
    let mut next: *const Slot = SLOTS.load(Ordering::Acquire);
    // SAFETY: slots are never freed, and the list ends with null.
    while let Some(slot) = unsafe { next.as_ref() } {
        next = slot.next;
        let Some((start, len)) = slot.range_around(at) else { continue };
        // First, so that nobody takes the empty memory for the guest's.
        slot.lost.store(true, Ordering::SeqCst);
        // Where the kernel grants no such amount, the page alone.
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
    fn memory_that_is_taken_away_reads_as_zeroes_and_is_known_to_be_lost() {
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
        // The other's is as it was.
        other.read_slice(&mut bytes, GuestAddress(0x8000)).unwrap();
        assert_eq!((bytes, other_watch.is_lost()), ([7; 100], false));
    }

    #[test]
    fn a_length_that_was_never_there_is_the_same() {
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

    /// A SIGBUS that is none of ours, in a process of its own: it ends as it would have without us.
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
